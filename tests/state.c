// States through llama.h. Arguments: a tiny model without vocabulary, and a file name to write to.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static const char *path;

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

static struct llama_context *make(struct llama_model *model) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_seq_max = 2;
    params.kv_unified = true;
    struct llama_context *ctx = llama_init_from_model(model, params);
    CHECK(ctx != NULL);
    return ctx;
}

static void decode(struct llama_context *ctx, int n) {
    llama_token tokens[] = {5, 6, 7, 8, 9, 10, 11, 12};
    CHECK(llama_decode(ctx, llama_batch_get_one(tokens, n)) == 0);
}

static float next_logit(struct llama_context *ctx) {
    decode(ctx, 1);
    return llama_get_logits_ith(ctx, -1)[0];
}

static llama_pos last(struct llama_context *ctx, llama_seq_id seq) {
    return llama_memory_seq_pos_max(llama_get_memory(ctx), seq);
}

static void nothing_is_refused(struct llama_context *ctx) {
    uint8_t byte = 1;
    size_t n = 7;
    llama_token token = 3;
    CHECK(llama_state_get_size(NULL) == 0 && llama_state_seq_get_size(NULL, 0) == 0);
    CHECK(llama_state_get_data(NULL, &byte, 1) == 0 && llama_state_set_data(NULL, &byte, 1) == 0);
    CHECK(llama_state_get_data(ctx, NULL, 100) == 0 && llama_state_set_data(ctx, NULL, 100) == 0);
    CHECK(llama_state_get_data(ctx, &byte, 1) == 0 && llama_state_set_data(ctx, &byte, 1) == 0);
    CHECK(llama_state_set_data(ctx, &byte, 0) == 0 && llama_set_state_data(ctx, NULL) == 0);
    CHECK(llama_state_seq_get_data(ctx, NULL, 100, 0) == 0 && llama_state_seq_set_data(ctx, NULL, 100, 0) == 0);
    CHECK(llama_state_seq_get_size(ctx, -2) == 0 && llama_state_seq_get_size(ctx, 1 << 20) == 0);
    CHECK(llama_state_seq_get_size_ext(ctx, 0, 4) == 0);
    CHECK(!llama_state_save_file(NULL, path, NULL, 0) && !llama_state_save_file(ctx, NULL, NULL, 0));
    CHECK(!llama_state_save_file(ctx, path, NULL, 1) && !llama_state_save_file(ctx, "/no/where", NULL, 0));
    CHECK(!llama_state_load_file(ctx, NULL, &token, 1, &n) && !llama_state_load_file(ctx, path, &token, 1, NULL));
    CHECK(!llama_state_load_file(ctx, "/no/where", &token, 1, &n));
    CHECK(llama_state_seq_save_file(ctx, NULL, 0, NULL, 0) == 0 && llama_state_seq_save_file(NULL, path, 0, NULL, 0) == 0);
    CHECK(llama_state_seq_load_file(ctx, "/no/where", 0, &token, 1, &n) == 0);
    CHECK(llama_state_seq_load_file(ctx, path, 0, &token, 1, NULL) == 0);
    CHECK(n == 7 && token == 3 && byte == 1);
}

static void buffers_round_trip(struct llama_model *model) {
    struct llama_context *a = make(model), *b = make(model);
    decode(a, 8);
    size_t size = llama_state_get_size(a);
    CHECK(size > 8 && llama_get_state_size(a) == size);
    // Exactly as large as needed: a tool that watches memory sees what is read beyond.
    uint8_t *data = malloc(size), *again = malloc(size);
    CHECK(llama_state_get_data(a, data, size - 1) == 0);
    CHECK(llama_state_get_data(a, data, SIZE_MAX) == size && llama_copy_state_data(a, again) == size);
    CHECK(memcmp(data, again, size) == 0);
    float logit = next_logit(a);
    CHECK(llama_state_set_data(b, data, size - 1) == 0 && last(b, 0) == -1);
    CHECK(llama_set_state_data(b, data) == size && last(b, 0) == 7 && next_logit(b) == logit);
    CHECK(llama_state_set_data(b, data, size) == size && last(b, 0) == 7 && next_logit(b) == logit);
    free(data);
    free(again);

    size = llama_state_seq_get_size(a, 0);
    CHECK(llama_state_seq_get_size_ext(a, 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE | LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) > 0);
    data = malloc(size);
    CHECK(llama_state_seq_get_data(a, data, size, 0) == size);
    CHECK(llama_state_seq_set_data(b, data, size - 1, 1) == 0 && last(b, 1) == -1);
    CHECK(llama_state_seq_set_data(b, data, size, 1) == size && last(b, 1) == 8);
    CHECK(llama_state_seq_get_data_ext(a, data, size, 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == size);
    CHECK(llama_state_seq_set_data_ext(b, data, size, 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == size);
    free(data);
    llama_free(a);
    llama_free(b);
}

static void files_round_trip(struct llama_model *model) {
    struct llama_context *a = make(model), *b = make(model);
    decode(a, 4);
    llama_token saved[2] = {8, 9}, tokens[3] = {0};
    size_t n = 0;
    CHECK(llama_state_save_file(a, path, saved, 2));
    CHECK(!llama_state_load_file(b, path, tokens, 1, &n) && n == 0 && last(b, 0) == -1);
    CHECK(llama_state_load_file(b, path, tokens, 3, &n) && n == 2 && tokens[1] == 9 && last(b, 0) == 3);
    CHECK(llama_save_session_file(a, path, NULL, 0) && llama_load_session_file(b, path, NULL, 0, &n) && n == 0);

    size_t size = llama_state_seq_save_file(a, path, 0, saved, 2);
    CHECK(size > 12 && llama_state_seq_load_file(b, path, 1, NULL, 0, &n) == 12 && n == 2 && last(b, 1) == -1);
    CHECK(llama_state_seq_load_file(b, path, 1, tokens, 1, &n) == 0 && last(b, 1) == -1);
    CHECK(llama_state_seq_load_file(b, path, 1, tokens, 3, &n) == size && n == 2 && last(b, 1) == 3);
    CHECK(!llama_state_load_file(b, path, tokens, 3, &n));
    llama_free(a);
    llama_free(b);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    path = argv[2];
    llama_log_set(quiet, NULL);
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model != NULL);
    struct llama_context *ctx = make(model);
    nothing_is_refused(ctx);
    llama_free(ctx);
    buffers_round_trip(model);
    files_round_trip(model);
    llama_model_free(model);
    return 0;
}
