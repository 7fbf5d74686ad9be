//! Training: the data sets and results of ggml-opt.h, and the names and defaults of its optimizers.

use std::ffi::{c_char, c_void};
use std::io::Write;

use super::*;
use crate::{Error, Result};

/// Examples to learn from.
pub struct ggml_opt_dataset {
    tag: Tag,
    /// Owns the tensors.
    _tensors: ggml_context,
    data: *mut ggml_tensor,   // [ne_datapoint, ndata]
    labels: *mut ggml_tensor, // [ne_label, ndata], or NULL
    ndata: i64,
}

impl Tagged for ggml_opt_dataset {
    const NAME: &'static str = "dataset";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

/// What was learned so far.
pub struct ggml_opt_result {
    tag: Tag,
    /// Examples seen.
    pub(super) ndata: i64,
    /// Examples whose likeliest answer was the right one.
    pub(super) ncorrect: i64,
    /// Mean loss of each batch.
    pub(super) loss: Vec<f32>,
}

impl Tagged for ggml_opt_result {
    const NAME: &'static str = "result";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl ggml_opt_result {
    /// The mean loss, and how uncertain it is.
    fn mean_loss(&self) -> [f64; 2] {
        let n = self.loss.len() as f64;
        if self.loss.is_empty() {
            return [0.0, f64::NAN];
        }
        let mean = self.loss.iter().map(|&loss| f64::from(loss)).sum::<f64>() / n;
        let variance = self.loss.iter().map(|&loss| (f64::from(loss) - mean).powi(2)).sum::<f64>() / n;
        [mean, if n < 2.0 { f64::NAN } else { (variance / (n - 1.0)).sqrt() }]
    }

    /// The share of right answers, and how uncertain it is.
    fn accuracy(&self) -> [f64; 2] {
        let (n, accuracy) = (self.ndata as f64, self.ncorrect as f64 / self.ndata as f64);
        [accuracy, if self.ndata < 2 { f64::NAN } else { (accuracy * (1.0 - accuracy) / (n - 1.0)).sqrt() }]
    }
}

/// Makes a data set of `ndata` examples of `ne_datapoint` elements, each with `ne_label` elements of answers (0: none), all
/// zero. Examples are shuffled in groups of `ndata_shard`. Returns NULL when a number makes no sense or memory is short.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_opt_dataset_init(
    type_data: CEnum<ggml_type>,
    type_label: CEnum<ggml_type>,
    ne_datapoint: i64,
    ne_label: i64,
    ndata: i64,
    ndata_shard: i64,
) -> ggml_opt_dataset_t {
    guard(std::ptr::null_mut(), || {
        if ne_datapoint <= 0 || ne_label < 0 || ndata <= 0 || ndata_shard <= 0 {
            let sizes = format!("{ndata} examples of {ne_datapoint} with answers of {ne_label}, by {ndata_shard}");
            return Err(Error::argument(format!("a data set of {sizes}")));
        }
        let mut tensors = ggml_context::new(isize::MAX as usize, false);
        let data = tensors.add_tensor(type_data, &[ne_datapoint, ndata])?;
        let labels = match ne_label {
            0 => std::ptr::null_mut(),
            _ => tensors.add_tensor(type_label, &[ne_label, ndata])?,
        };
        for tensor in [data, labels] {
            // SAFETY: NULL, or made just above.
            if let Some(tensor) = unsafe { tensor.as_mut() } {
                tensor.buffer = device::cpu_buffer();
            }
        }
        let tag = Tag::of::<ggml_opt_dataset>();
        Ok(Box::into_raw(Box::new(ggml_opt_dataset { tag, _tensors: tensors, data, labels, ndata })))
    })
}

/// Returns how many examples a data set has.
///
/// # Safety
/// `dataset` must be NULL or a live data set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_dataset_ndata(dataset: ggml_opt_dataset_t) -> i64 {
    // SAFETY: the caller promises NULL or a live data set.
    guard(0, || Ok(unsafe { handle_ref(dataset) }?.ndata))
}

/// Returns the examples of a data set, [ne_datapoint, ndata], to fill in. They live as long as it does.
///
/// # Safety
/// `dataset` must be NULL or a live data set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_dataset_data(dataset: ggml_opt_dataset_t) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live data set.
    guard(std::ptr::null_mut(), || Ok(unsafe { handle_ref(dataset) }?.data))
}

/// Returns the answers of a data set, [ne_label, ndata], to fill in; NULL when it has none. They live as long as it does.
///
/// # Safety
/// `dataset` must be NULL or a live data set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_dataset_labels(dataset: ggml_opt_dataset_t) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live data set.
    guard(std::ptr::null_mut(), || Ok(unsafe { handle_ref(dataset) }?.labels))
}

/// Makes an empty result. Free it with ggml_opt_result_free.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_opt_result_init() -> ggml_opt_result_t {
    guard(std::ptr::null_mut(), || {
        let tag = Tag::of::<ggml_opt_result>();
        Ok(Box::into_raw(Box::new(ggml_opt_result { tag, ndata: 0, ncorrect: 0, loss: Vec::new() })))
    })
}

/// Frees a result. NULL does nothing.
///
/// # Safety
/// `result` must be NULL or a result that was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_result_free(result: ggml_opt_result_t) {
    guard((), || {
        if !result.is_null() {
            // SAFETY: the caller promises a live result of ggml_opt_result_init, given up here.
            unsafe {
                handle_ref(result)?;
                drop(Box::from_raw(result));
            }
        }
        Ok(())
    });
}

/// Makes a result empty.
///
/// # Safety
/// `result` must be NULL or a live result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_result_reset(result: ggml_opt_result_t) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live result.
        let result = unsafe { handle_mut(result) }?;
        result.loss.clear();
        (result.ndata, result.ncorrect) = (0, 0);
        Ok(())
    });
}

/// Returns an optimizer's name, "adamw" or "sgd"; "undefined" for any other number. The string lives as long as the
/// library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_opt_optimizer_name(r#type: CEnum<ggml_opt_optimizer_type>) -> *const c_char {
    match r#type.value() {
        0 => c"adamw".as_ptr(),
        1 => c"sgd".as_ptr(),
        _ => c"undefined".as_ptr(),
    }
}

/// Returns the usual settings of the optimizers, whatever `userdata` is.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_opt_get_default_optimizer_params(_userdata: *mut c_void) -> ggml_opt_optimizer_params {
    ggml_opt_optimizer_params {
        adamw: ggml_opt_adamw { alpha: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, wd: 0.0 },
        sgd: ggml_opt_sgd { alpha: 1e-3, wd: 0.0 },
    }
}

/// Draws on stderr how far an epoch is: batches, loss and accuracy of `result` with their uncertainties, time gone and time
/// left. Is one of the callbacks that llama_opt_epoch takes.
///
/// # Safety
/// `result` must be NULL or a live result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_opt_epoch_callback_progress_bar(
    train: bool,
    _opt_ctx: ggml_opt_context_t,
    _dataset: ggml_opt_dataset_t,
    result: ggml_opt_result_t,
    ibatch: i64,
    ibatch_max: i64,
    t_start_us: i64,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live result.
        let result = unsafe { handle_ref(result) }?;
        let ([loss, loss_unc], [accuracy, accuracy_unc]) = (result.mean_loss(), result.accuracy());
        let gone = ggml_time_us().saturating_sub(t_start_us).max(0);
        let left = gone as f64 / ibatch.max(1) as f64 * ibatch_max.saturating_sub(ibatch).max(0) as f64;
        let mut line = format!("{}[{}] ", if train { "train: " } else { "val:   " }, bar(ibatch, ibatch_max)?);
        line += &format!("data={ibatch:07}/{ibatch_max:07} loss={loss:.5}±{loss_unc:.5} ");
        line += &format!("acc={:.2}±{:.2}% ", 100.0 * accuracy, 100.0 * accuracy_unc);
        line += &format!("t={} ETA={} \r", clock(gone), clock(left as i64));
        if ibatch == ibatch_max {
            line.push('\n');
        }
        // A closed stderr is no reason to stop training.
        let _ = std::io::stderr().write_all(line.as_bytes());
        Ok(())
    });
}

/// Eight characters of which `done` of `all` parts are filled.
fn bar(done: i64, all: i64) -> Result<String> {
    const LEVELS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    if all <= 0 || !(0..=all).contains(&done) {
        return Err(Error::argument(format!("batch {done} of {all}")));
    }
    let eighths = (done as f64 / all as f64 * 64.0) as usize;
    Ok((0..8).map(|i| LEVELS[eighths.saturating_sub(8 * i).min(8)]).collect())
}

/// Microseconds as hours, minutes and seconds.
fn clock(us: i64) -> String {
    let s = us / 1_000_000;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: CEnum<ggml_type> = CEnum::from_int(0);
    const I32: CEnum<ggml_type> = CEnum::from_int(26);

    #[test]
    fn data_sets_are_zeroed_tensors() {
        let set = ggml_opt_dataset_init(I32, F32, 8, 3, 5, 1);
        // SAFETY: the data set lives to the end of the test.
        unsafe {
            let (data, labels) = (&*ggml_opt_dataset_data(set), &*ggml_opt_dataset_labels(set));
            assert_eq!((data.ne, labels.ne, ggml_opt_dataset_ndata(set)), ([8, 5, 1, 1], [3, 5, 1, 1], 5));
            assert_eq!(std::slice::from_raw_parts(data.data.cast::<i32>(), 40), [0; 40]);
            drop(Box::from_raw(set));
            let plain = ggml_opt_dataset_init(F32, F32, 8, 0, 5, 1);
            assert!(ggml_opt_dataset_labels(plain).is_null());
            drop(Box::from_raw(plain));
            assert_eq!(ggml_opt_dataset_ndata(std::ptr::null_mut()), 0);
        }
        for [point, label, n, shard] in
            [[0, 0, 1, 1], [1, -1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [1 << 40, 0, 1 << 40, 1]]
        {
            assert!(ggml_opt_dataset_init(F32, F32, point, label, n, shard).is_null());
        }
    }

    #[test]
    fn bars_fill() {
        assert_eq!(bar(0, 10).unwrap(), "        ");
        assert_eq!(bar(10, 10).unwrap(), "████████");
        assert_eq!(bar(5, 10).unwrap(), "████    ");
        assert!(bar(1, 0).is_err() && bar(-1, 5).is_err());
        assert_eq!(clock(3_725_000_000), "01:02:05");
    }

    #[test]
    fn results_have_means() {
        let result = ggml_opt_result_init();
        // SAFETY: the result lives until it is freed.
        unsafe {
            let r = &mut *result;
            assert!(r.mean_loss()[1].is_nan());
            (r.loss, r.ndata, r.ncorrect) = (vec![1.0, 3.0], 4, 1);
            assert_eq!((r.mean_loss(), r.accuracy()), ([2.0, 1.0], [0.25, 0.25]));
            ggml_opt_result_reset(result);
            assert_eq!(((*result).ndata, (*result).loss.len()), (0, 0));
            ggml_opt_result_free(result);
            ggml_opt_result_free(std::ptr::null_mut());
        }
    }
}
