// The border as a C program sees it: what happens with NULL and nonsense (argument "null"), and with a real model used
// wrongly ("model PATH"). Built and run by tests/border.rs.

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer.h"
#include "llama.h"

_Static_assert(offsetof(struct llama_model_kv_override, val_i64) == 136, "where the anonymous union is");
_Static_assert(offsetof(struct llama_model_kv_override, val_str) == 136, "where the anonymous union is");

static int n_failed = 0;

#define CHECK(x) \
    do { \
        if (!(x)) { \
            printf("line %d: %s; last error: %s\n", __LINE__, #x, infer_last_error()); \
            ++n_failed; \
        } \
    } while (0)

static void silent(enum ggml_log_level level, const char *text, void *user_data) {
    (void) level;
    (void) text;
    ++*(int *) user_data;
}

static void null_model(void) {
    char buf[8] = "before";
    CHECK(llama_model_load_from_file(NULL, llama_model_default_params()) == NULL);
    CHECK(strstr(infer_last_error(), "path_model") != NULL);
    CHECK(llama_model_load_from_file("/nonexistent/model.gguf", llama_model_default_params()) == NULL);
    CHECK(strstr(infer_last_error(), "/nonexistent/model.gguf") != NULL);
    CHECK(llama_model_load_from_splits(NULL, 3, llama_model_default_params()) == NULL);
    CHECK(llama_model_load_from_splits(NULL, 0, llama_model_default_params()) == NULL);
    CHECK(llama_model_load_from_file_ptr(NULL, llama_model_default_params()) == NULL);
    struct llama_model_params params = llama_model_default_params();
    params.load_mode = (enum llama_load_mode) 77;
    CHECK(llama_model_load_from_file("/dev/null", params) == NULL);
    llama_model_free(NULL);
    CHECK(llama_model_get_vocab(NULL) == NULL);
    CHECK(llama_model_rope_type(NULL) == LLAMA_ROPE_TYPE_NONE);
    CHECK(llama_model_n_embd(NULL) == 0 && llama_model_n_layer(NULL) == 0 && llama_model_n_params(NULL) == 0);
    CHECK(llama_model_meta_val_str(NULL, "general.name", buf, sizeof(buf)) == -1 && buf[0] == 0);
    CHECK(llama_model_meta_count(NULL) == 0);
    CHECK(llama_model_desc(NULL, NULL, 0) == -1);
    CHECK(llama_model_chat_template(NULL, NULL) == NULL);
    CHECK(!llama_model_has_decoder(NULL) && !llama_model_is_recurrent(NULL));
    CHECK(llama_model_decoder_start_token(NULL) == LLAMA_TOKEN_NULL);
}

static void null_vocab(void) {
    llama_token token = 1;
    char text[4];
    CHECK(llama_vocab_n_tokens(NULL) == 0);
    CHECK(llama_vocab_type(NULL) == LLAMA_VOCAB_TYPE_NONE);
    CHECK(llama_vocab_get_text(NULL, 0) == NULL);
    CHECK(llama_vocab_bos(NULL) == LLAMA_TOKEN_NULL);
    CHECK(!llama_vocab_is_eog(NULL, 0));
    CHECK(llama_tokenize(NULL, "a", 1, &token, 1, true, true) == INT32_MIN);
    CHECK(llama_token_to_piece(NULL, 0, text, 4, 0, true) == 0);
    CHECK(llama_detokenize(NULL, &token, 1, text, 4, false, false) == INT32_MIN);
    int32_t n = -1;
    CHECK(llama_vocab_get_suppress_tokens(NULL, &n) == NULL && n == 0);
}

static void null_context(void) {
    llama_token token = 1;
    CHECK(llama_init_from_model(NULL, llama_context_default_params()) == NULL);
    llama_free(NULL);
    CHECK(llama_n_ctx(NULL) == 0 && llama_n_batch(NULL) == 0 && llama_n_threads(NULL) == 0);
    CHECK(llama_get_model(NULL) == NULL && llama_get_memory(NULL) == NULL);
    CHECK(llama_decode(NULL, llama_batch_get_one(&token, 1)) == -1);
    CHECK(llama_encode(NULL, llama_batch_get_one(&token, 1)) == -1);
    CHECK(llama_process(NULL, LLAMA_PROCESS_TYPE_DECODE, NULL) == -1);
    CHECK(llama_get_logits(NULL) == NULL && llama_get_logits_ith(NULL, -1) == NULL);
    CHECK(llama_get_embeddings(NULL) == NULL && llama_get_embeddings_seq(NULL, 0) == NULL);
    llama_set_n_threads(NULL, 1, 1);
    llama_set_abort_callback(NULL, NULL, NULL);
    llama_attach_threadpool(NULL, NULL, NULL);
    llama_detach_threadpool(NULL);
    llama_synchronize(NULL);
    llama_perf_context_print(NULL);
    llama_perf_context_reset(NULL);
    CHECK(llama_perf_context(NULL).n_eval == 0);
    CHECK(llama_sampler_sample(NULL, NULL, -1) == LLAMA_TOKEN_NULL);
    // Without a memory there is nothing to remove, which is no error.
    llama_memory_clear(NULL, true);
    CHECK(llama_memory_seq_rm(NULL, 0, -1, -1));
    llama_memory_seq_cp(NULL, 0, 1, -1, -1);
    CHECK(llama_memory_seq_pos_max(NULL, 0) == -1 && !llama_memory_can_shift(NULL));
}

static void null_batch(void) {
    struct llama_embd embd = {NULL, 1, 1};
    llama_pos pos = 0;
    CHECK(llama_batch_ext_init(NULL) == NULL);
    llama_batch_ext_free(NULL);
    llama_batch_ext_clear(NULL);
    CHECK(llama_batch_ext_add(NULL, 0) < 0 && llama_batch_ext_add_token(NULL, 0, 0) < 0);
    CHECK(llama_batch_ext_add_embd(NULL, 0, embd) < 0 && !llama_batch_ext_add_seq(NULL, 0, 0));
    CHECK(!llama_batch_ext_set_pos(NULL, 0, &pos) && !llama_batch_ext_set_output_logits(NULL, 0, true));
    struct llama_batch none = llama_batch_init(-1, 0, 1);
    CHECK(none.token == NULL && none.seq_id == NULL);
    llama_batch_free(none);
    none = llama_batch_init(INT32_MAX, INT32_MAX, INT32_MAX);
    CHECK(none.embd == NULL);
    llama_batch_free(none);
    struct llama_batch batch = llama_batch_init(3, 0, 2);
    CHECK(batch.n_tokens == 0 && batch.token != NULL && batch.embd == NULL && batch.seq_id[2] != NULL);
    CHECK(batch.seq_id[3] == NULL);
    llama_batch_free(batch);
    batch = llama_batch_init(3, 8, 1);
    CHECK(batch.token == NULL && batch.embd[23] == 0);
    llama_batch_free(batch);
}

static void null_gguf(void) {
    struct gguf_init_params params = {true, NULL};
    CHECK(gguf_init_from_file(NULL, params) == NULL && gguf_init_from_file("/nonexistent", params) == NULL);
    CHECK(gguf_init_from_buffer(NULL, 10, params) == NULL && gguf_init_from_buffer("GGUF", 4, params) == NULL);
    gguf_free(NULL);
    CHECK(gguf_find_key(NULL, "a") == -1 && gguf_get_n_kv(NULL) == 0 && gguf_get_val_str(NULL, 0) == NULL);

    struct gguf_context *gguf = gguf_init_empty();
    CHECK(gguf_find_key(gguf, NULL) == -1 && gguf_get_key(gguf, 0) == NULL && gguf_get_key(gguf, -1) == NULL);
    CHECK(gguf_get_kv_type(gguf, 0) == GGUF_TYPE_COUNT);
    const char *strings[2] = {"x", "yz"};
    const uint32_t numbers[3] = {1, 2, 3};
    gguf_set_val_u32(gguf, "n", 7);
    gguf_set_val_str(gguf, "s", "text");
    gguf_set_arr_str(gguf, "strings", strings, 2);
    gguf_set_arr_data(gguf, "numbers", GGUF_TYPE_UINT32, numbers, 3);
    gguf_set_arr_data(gguf, "bad", (enum gguf_type) 99, numbers, 3);
    gguf_set_arr_data(gguf, "bad", GGUF_TYPE_STRING, numbers, 3);
    gguf_set_val_f32(gguf, NULL, 1);
    CHECK(gguf_get_n_kv(gguf) == 4 && gguf_find_key(gguf, "bad") == -1);
    CHECK(gguf_get_val_u32(gguf, gguf_find_key(gguf, "n")) == 7);
    CHECK(gguf_get_val_str(gguf, gguf_find_key(gguf, "n")) == NULL);
    int64_t id = gguf_find_key(gguf, "strings");
    CHECK(gguf_get_arr_n(gguf, id) == 2 && strcmp(gguf_get_arr_str(gguf, id, 1), "yz") == 0);
    CHECK(gguf_get_arr_str(gguf, id, 2) == NULL && gguf_get_arr_type(gguf, id) == GGUF_TYPE_STRING);

    struct ggml_init_params memory = {4 * ggml_tensor_overhead() + 1024, NULL, false};
    struct ggml_context *ctx = ggml_init(memory);
    struct ggml_tensor *tensor = ggml_set_name(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 4, 2), "t");
    ggml_get_data_f32(tensor)[5] = 0.5f;
    gguf_add_tensor(gguf, tensor);
    gguf_add_tensor(gguf, NULL);
    char path[] = "/tmp/border-XXXXXX.gguf";
    snprintf(path, sizeof(path), "/tmp/border-%06x.gguf", (unsigned) (ggml_time_us() & 0xffffff));
    CHECK(gguf_write_to_file(gguf, path, false));
    CHECK(!gguf_write_to_file(gguf, "/nonexistent/x.gguf", false));
    gguf_free(gguf);
    ggml_free(ctx);

    struct ggml_context *read = NULL;
    struct gguf_init_params with_data = {false, &read};
    gguf = gguf_init_from_file(path, with_data);
    CHECK(gguf != NULL && read != NULL && gguf_get_n_tensors(gguf) == 1);
    CHECK(strcmp(gguf_get_tensor_name(gguf, 0), "t") == 0 && gguf_get_tensor_size(gguf, 0) == 32);
    tensor = ggml_get_tensor(read, "t");
    CHECK(tensor != NULL && tensor->ne[1] == 2 && ggml_get_data_f32(tensor)[5] == 0.5f);
    float copy[2] = {0, 0};
    ggml_backend_tensor_get(tensor, copy, 16, 8);
    CHECK(copy[1] == 0.5f);
    ggml_backend_tensor_get(tensor, copy, 28, 8);
    CHECK(ggml_get_first_tensor(read) == tensor && ggml_get_next_tensor(read, tensor) == NULL);
    gguf_free(gguf);
    ggml_free(read);
    remove(path);
}

static void null_ggml(void) {
    CHECK(strcmp(ggml_op_name(GGML_OP_MUL_MAT), "MUL_MAT") == 0 && ggml_op_name((enum ggml_op) -1) == NULL);
    CHECK(ggml_op_desc(NULL) == NULL && ggml_format_name(NULL, "%d", 1) == NULL);
    CHECK(!ggml_backend_buffer_is_host(NULL) && ggml_graph_n_nodes(NULL) == 0 && ggml_graph_node(NULL, 0) == NULL);
    ggml_backend_register(NULL);
    CHECK(!llama_batch_ext_set_embd_state(NULL, 0, (struct llama_embd) {NULL, 1, 1}));

    struct ggml_init_params memory = {ggml_tensor_overhead() + 64, NULL, false};
    struct ggml_context *ctx = ggml_init(memory);
    struct ggml_tensor *tensor = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);
    CHECK(strcmp(ggml_format_name(tensor, "%s.%d%%", "blk", -3)->name, "blk.-3%") == 0);
    ggml_free(ctx);

    CHECK(ggml_opt_dataset_ndata(NULL) == 0 && ggml_opt_dataset_data(NULL) == NULL);
    CHECK(ggml_opt_dataset_init(GGML_TYPE_I32, GGML_TYPE_I32, -1, 1, 1, 1) == NULL);
    ggml_opt_result_reset(NULL);
    ggml_opt_result_free(NULL);
    ggml_opt_epoch_callback_progress_bar(true, NULL, NULL, NULL, 0, 0, 0);
    CHECK(ggml_opt_get_default_optimizer_params(NULL).sgd.alpha == 1e-3f);
    CHECK(strcmp(ggml_opt_optimizer_name(GGML_OPT_OPTIMIZER_TYPE_SGD), "sgd") == 0 && llama_opt_param_filter_all(NULL, NULL));
    struct llama_opt_params params = {0, llama_opt_param_filter_all, NULL, NULL, NULL, GGML_OPT_OPTIMIZER_TYPE_ADAMW};
    llama_opt_init(NULL, NULL, params);
    llama_opt_epoch(NULL, NULL, NULL, NULL, 0, NULL, NULL);
}

typedef ggml_threadpool_t (*make_pool)(struct ggml_threadpool_params *);
typedef void (*free_pool)(ggml_threadpool_t);

// Decodes a token with a pool of two threads that share a processor.
static void use_pool(struct llama_context *ctx, llama_token token) {
    ggml_backend_reg_t cpu = ggml_backend_dev_backend_reg(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    make_pool make = (make_pool) (uintptr_t) ggml_backend_reg_get_proc_address(cpu, "ggml_threadpool_new");
    free_pool end = (free_pool) (uintptr_t) ggml_backend_reg_get_proc_address(cpu, "ggml_threadpool_free");
    CHECK(make != NULL && end != NULL && make(NULL) == NULL);
    struct ggml_threadpool_params params = ggml_threadpool_params_default(0);
    CHECK(make(&params) == NULL);
    params = ggml_threadpool_params_default(2);
    params.cpumask[0] = true;
    // No machine has it, and the system refuses the priority to most programs: both do no harm.
    params.cpumask[511] = true;
    params.prio = GGML_SCHED_PRIO_MEDIUM;
    params.strict_cpu = true;
    params.poll = 0;
    ggml_threadpool_t pool = make(&params);
    CHECK(pool != NULL);
    llama_attach_threadpool(ctx, pool, NULL);
    CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0);
    llama_detach_threadpool(ctx);
    end(pool);
    CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0);
}

static void null_chat(void) {
    struct llama_chat_message chat[1] = {{"user", NULL}};
    char buf[8];
    CHECK(llama_chat_apply_template(NULL, chat, 1, true, buf, sizeof(buf)) == -1);
    CHECK(llama_chat_apply_template("no such template", NULL, 0, true, NULL, 0) == -1);
    chat[0].content = "hi";
    CHECK(llama_chat_apply_template(NULL, chat, 1, false, buf, sizeof(buf)) == 30);
    CHECK(memcmp(buf, "<|im_sta", 8) == 0);
    const char *names[2];
    CHECK(llama_chat_builtin_templates(names, 2) > 50 && strcmp(names[0], "bailing") == 0);
    CHECK(llama_chat_builtin_templates(NULL, 0) > 50);
}

static bool stop(void *data) {
    return ++*(int *) data > 3;
}

static bool cancel(float progress, void *data) {
    *(float *) data = progress;
    return false;
}

static void use_wrongly(struct llama_model *model) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_batch = 64;
    params.n_seq_max = 2;
    params.kv_unified = true;
    params.n_threads = params.n_threads_batch = 2;

    params.type_v = (enum ggml_type) 4;
    CHECK(llama_init_from_model(model, params) == NULL);
    params.type_v = GGML_TYPE_F16;
    params.pooling_type = (enum llama_pooling_type) 9;
    CHECK(llama_init_from_model(model, params) == NULL);
    params.pooling_type = LLAMA_POOLING_TYPE_UNSPECIFIED;
    struct llama_context *ctx = llama_init_from_model(model, params);
    CHECK(ctx != NULL);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    // The context keeps the model.
    CHECK(llama_get_model(ctx) == model);
    llama_model_free(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);

    llama_token tokens[300];
    for (int i = 0; i < 300; ++i) {
        tokens[i] = 5 + i % 50;
    }
    llama_memory_t mem = llama_get_memory(ctx);
    CHECK(llama_decode(ctx, llama_batch_get_one(NULL, 4)) == -1);
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 0)) == -1);
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, -5)) == -1);
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 65)) == -1);
    tokens[1] = n_vocab;
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 4)) == -1);
    tokens[1] = -7;
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 4)) == -1);
    tokens[1] = 6;
    struct llama_batch batch = llama_batch_get_one(tokens, 2);
    int32_t n_seq_id[2] = {1, 1};
    llama_seq_id seq[2] = {0, 2};
    llama_seq_id *seq_id[2] = {&seq[0], &seq[1]};
    batch.n_seq_id = n_seq_id;
    batch.seq_id = seq_id;
    CHECK(llama_decode(ctx, batch) == -1);
    seq[1] = -1;
    CHECK(llama_decode(ctx, batch) == -1);
    seq[1] = 1;
    n_seq_id[1] = 1 << 30;
    CHECK(llama_decode(ctx, batch) == -1);
    n_seq_id[1] = 1;
    seq_id[1] = NULL;
    CHECK(llama_decode(ctx, batch) == -1);
    CHECK(llama_memory_seq_pos_max(mem, 0) == -1);
    CHECK(llama_get_logits_ith(ctx, -1) == NULL);

    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 4)) == 0);
    CHECK(llama_memory_seq_pos_max(mem, 0) == 3);
    const float *logits = llama_get_logits_ith(ctx, -1);
    CHECK(logits != NULL && isfinite(logits[0]) && logits == llama_get_logits_ith(ctx, 3));
    CHECK(llama_get_logits_ith(ctx, 0) == NULL && llama_get_logits_ith(ctx, 4) == NULL);
    CHECK(llama_get_logits_ith(ctx, -2) == NULL && llama_get_logits_ith(ctx, INT32_MIN) == NULL);
    CHECK(llama_get_embeddings_ith(ctx, -1) == NULL && llama_get_embeddings_seq(ctx, 0) == NULL);

    // A chain that chooses nothing, then one that chooses.
    struct llama_sampler *chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    CHECK(llama_sampler_sample(chain, ctx, -1) == LLAMA_TOKEN_NULL);
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    const llama_token best = llama_sampler_sample(chain, ctx, -1);
    CHECK(best >= 0 && best < n_vocab && llama_sampler_sample(chain, ctx, 3) == best);
    CHECK(llama_sampler_sample(chain, ctx, 1) == LLAMA_TOKEN_NULL);
    llama_sampler_free(chain);

    // Full memory: nothing changes.
    for (int i = 0; i < 3; ++i) {
        CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 64)) == 0);
    }
    CHECK(llama_memory_seq_pos_max(mem, 0) == 195);
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 64)) == 1);
    CHECK(llama_memory_seq_pos_max(mem, 0) == 195);
    CHECK(strstr(infer_last_error(), "64 tokens") != NULL);

    int n_asked = 0;
    llama_set_abort_callback(ctx, stop, &n_asked);
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, 16)) == 2 && n_asked == 4);
    llama_set_abort_callback(ctx, NULL, NULL);

    llama_memory_seq_rm(mem, 300, -1, -1);
    CHECK(llama_memory_seq_pos_min(mem, 99) == -1 && llama_memory_seq_pos_max(mem, -3) == -1);
    llama_memory_seq_cp(mem, 0, 55, -1, -1);
    llama_memory_seq_div(mem, 0, -1, -1, 0);
    CHECK(llama_memory_seq_pos_max(mem, 0) == 195);
    CHECK(llama_memory_seq_rm(mem, 0, 4, -1) && llama_memory_seq_pos_max(mem, 0) == 3);
    llama_memory_clear(mem, true);

    // The extended batch gives the same logits.
    struct llama_batch_ext *ext = llama_batch_ext_init(ctx);
    for (llama_pos i = 0; i < 4; ++i) {
        CHECK(llama_batch_ext_add_token(ext, 0, tokens[i]) == i);
        CHECK(llama_batch_ext_set_pos(ext, i, &i));
    }
    CHECK(llama_batch_ext_add_token(ext, 0, n_vocab) == -2 && llama_batch_ext_add_token(ext, 2, 0) == -3);
    CHECK(!llama_batch_ext_set_pos(ext, 4, NULL) && !llama_batch_ext_set_pos(ext, 0, NULL));
    CHECK(llama_batch_ext_set_output_logits(ext, 3, true) && !llama_batch_ext_set_output_logits(ext, -1, true));
    CHECK(llama_process(ctx, (enum llama_process_type) 5, ext) == -1);
    CHECK(llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, ext) == 0);
    logits = llama_get_logits_ith(ctx, 3);
    CHECK(logits != NULL);
    llama_token argmax = 0;
    for (int i = 0; logits != NULL && i < n_vocab; ++i) {
        argmax = logits[i] > logits[argmax] ? i : argmax;
    }
    CHECK(argmax == best);
    llama_batch_ext_clear(ext);
    CHECK(llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, ext) == -1);
    for (int i = 0; i < 64; ++i) {
        llama_batch_ext_add_token(ext, 0, 1);
    }
    CHECK(llama_batch_ext_add_token(ext, 0, 1) == -1);
    llama_batch_ext_free(ext);
    llama_memory_clear(mem, true);
    use_pool(ctx, tokens[0]);
    llama_free(ctx);
}

static void with_model(const char *path) {
    float progress = -1;
    struct llama_model_params params = llama_model_default_params();
    params.progress_callback = cancel;
    params.progress_callback_user_data = &progress;
    CHECK(llama_model_load_from_file(path, params) == NULL && progress >= 0);

    params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(path, params);
    CHECK(model != NULL && llama_vocab_n_tokens(llama_model_get_vocab(model)) > 1000);
    // A context over a vocabulary exists, as bindings expect, and computes nothing.
    struct llama_context *idle = llama_init_from_model(model, llama_context_default_params());
    llama_token first = 1;
    CHECK(idle != NULL && llama_decode(idle, llama_batch_get_one(&first, 1)) == -1 && llama_get_logits_ith(idle, -1) == NULL);
    llama_free(idle);
    llama_model_free(model);

    struct llama_model_kv_override overrides[2] = {{.tag = LLAMA_KV_OVERRIDE_TYPE_INT, .key = "llama.context_length"}, {0}};
    overrides[0].val_i64 = 77;
    params = llama_model_default_params();
    params.kv_overrides = overrides;
    FILE *file = fopen(path, "rb");
    model = llama_model_load_from_file_ptr(file, params);
    fclose(file);
    CHECK(model != NULL && llama_model_n_ctx_train(model) == 77);
    llama_model_free(model);

    model = llama_model_load_from_file(path, llama_model_default_params());
    CHECK(model != NULL);
    char buf[64];
    CHECK(llama_model_meta_val_str(model, "general.architecture", buf, sizeof(buf)) == 5 && strcmp(buf, "llama") == 0);
    CHECK(llama_model_meta_val_str(model, "general.architecture", buf, 3) == 5 && strcmp(buf, "ll") == 0);
    CHECK(llama_model_meta_val_str(model, "no such key", buf, sizeof(buf)) == -1 && buf[0] == 0);
    CHECK(llama_model_meta_key_by_index(model, llama_model_meta_count(model), buf, sizeof(buf)) == -1);
    CHECK(llama_model_meta_key_by_index(model, -1, NULL, 0) == -1);
    CHECK(llama_model_chat_template(model, NULL) == llama_model_chat_template(model, NULL));
    CHECK(llama_model_chat_template(model, "no such template") == NULL);

    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    llama_token tokens[8];
    CHECK(llama_tokenize(vocab, "Hello world", 11, tokens, 8, false, false) == 2);
    CHECK(llama_tokenize(vocab, "Hello world", 11, tokens, 1, false, false) == -2);
    CHECK(llama_tokenize(vocab, "Hello world", 11, NULL, 0, false, false) == -2);
    CHECK(llama_tokenize(vocab, NULL, 0, tokens, 8, false, false) == 0);
    CHECK(llama_tokenize(vocab, "x", -1, tokens, 8, false, false) == INT32_MIN);
    CHECK(llama_tokenize(vocab, "\xff\xfe\x80", 3, tokens, 8, false, false) > 0);
    CHECK(llama_token_to_piece(vocab, 1 << 30, buf, 64, 0, true) == 0);
    CHECK(llama_token_to_piece(vocab, -1, buf, 64, 0, true) == 0);
    tokens[0] = -1;
    CHECK(llama_detokenize(vocab, tokens, 1, buf, 64, false, true) <= 0);
    CHECK(llama_vocab_get_text(vocab, llama_vocab_n_tokens(vocab)) == NULL);
    use_wrongly(model);
}

int main(int argc, char **argv) {
    int n_messages = 0;
    ggml_log_callback callback = NULL;
    void *user_data = &callback;
    llama_log_get(&callback, &user_data);
    CHECK(callback != NULL && user_data == NULL);
    llama_log_set(silent, &n_messages);
    llama_log_get(&callback, &user_data);
    CHECK(callback == silent && user_data == &n_messages);
    llama_log_get(NULL, NULL);
    llama_backend_init();
    CHECK(infer_last_error()[0] == 0 && strlen(infer_version()) >= 5);
    if (argc > 2 && strcmp(argv[1], "model") == 0) {
        with_model(argv[2]);
    } else {
        null_model();
        null_vocab();
        null_context();
        null_batch();
        null_gguf();
        null_ggml();
        null_chat();
    }
    CHECK(n_messages > 10);
    llama_log_set(NULL, NULL);
    llama_backend_free();
    return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
