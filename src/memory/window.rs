//! Sliding windows: which positions a query may see. Used by the cache to reuse cells and by the masks.

use std::ops::Range;

/// The sliding window of a group of layers; the number is the model's `n_swa`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    /// Every earlier position is visible.
    #[default]
    None,
    /// The last `n_swa` positions, the query's own included.
    Standard(u32),
    /// The positions of the query's chunk; chunks have `n_swa` positions and begin at its multiples.
    Chunked(u32),
    /// Positions at most `n_swa / 2` away on either side.
    Symmetric(u32),
}

/// What `llama_set_causal_attn(ctx, false)` means for a model's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonCausal {
    /// All layers see later positions; windows still apply.
    #[default]
    All,
    /// Only layers with a window see later positions.
    SwaOnly,
    /// All layers see later positions, and windows do not apply between tokens of the ubatch.
    SwaFull,
}

/// How attention looks along the positions in one decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// No token sees a later position.
    #[default]
    Causal,
    /// Tokens see later positions, as the model has it.
    Both(NonCausal),
}

impl Window {
    /// The number of positions that a window spans; 0 without one.
    pub fn n_swa(self) -> u32 {
        match self {
            Window::None => 0,
            Window::Standard(n) | Window::Chunked(n) | Window::Symmetric(n) => n,
        }
    }

    /// Whether a query at `query` cannot see position `pos` because of the window alone.
    pub fn hides(self, pos: i32, query: i32) -> bool {
        !self.around(query).contains(&i64::from(pos))
    }

    /// The positions that a query at `pos` sees. `span_min` is the smallest position of its sequence in the ubatch.
    pub fn visible(self, pos: i32, span_min: i32, direction: Direction) -> Range<i32> {
        let mut range = self.around(pos);
        let causal = match direction {
            Direction::Causal => true,
            Direction::Both(NonCausal::All) => false,
            Direction::Both(NonCausal::SwaOnly) => self == Window::None,
            Direction::Both(NonCausal::SwaFull) => {
                range.start = range.start.min(i64::from(span_min));
                range.end = i64::MAX;
                false
            }
        };
        if causal {
            range.end = range.end.min(i64::from(pos) + 1);
        }
        let clamp = |p: i64| p.clamp(0, i64::from(i32::MAX)) as i32;
        clamp(range.start)..clamp(range.end)
    }

    /// The window around a position, regardless of causality.
    fn around(self, pos: i32) -> Range<i64> {
        let pos = i64::from(pos);
        match self {
            Window::None => i64::MIN..i64::MAX,
            Window::Standard(n) => pos - i64::from(n) + 1..i64::MAX,
            Window::Chunked(n) => pos - pos.checked_rem(i64::from(n)).unwrap_or(0)..i64::MAX,
            Window::Symmetric(n) => pos - i64::from(n / 2)..pos + i64::from(n / 2) + 1,
        }
    }
}
