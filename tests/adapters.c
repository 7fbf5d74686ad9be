// Adapters through llama.h. Arguments: a tiny model without vocabulary, and an adapter for it.

#include <math.h>
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

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

// A logit of a token at the beginning of the sequence.
static float first_logit(struct llama_context *ctx) {
    llama_token token = 5;
    llama_memory_clear(llama_get_memory(ctx), true);
    CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0);
    return llama_get_logits_ith(ctx, -1)[0];
}

static void nothing_is_refused(void) {
    char text[8] = "left";
    CHECK(llama_adapter_lora_init(NULL, "x") == NULL && llama_adapter_lora_init_from_file_ptr(NULL, NULL) == NULL);
    llama_adapter_lora_free(NULL);
    CHECK(llama_adapter_meta_count(NULL) == 0 && llama_adapter_get_alora_n_invocation_tokens(NULL) == 0);
    CHECK(llama_adapter_get_alora_invocation_tokens(NULL) == NULL);
    CHECK(llama_adapter_meta_val_str(NULL, "x", text, sizeof text) == -1 && text[0] == 0);
    CHECK(llama_adapter_meta_key_by_index(NULL, 0, text, sizeof text) == -1);
    CHECK(llama_adapter_meta_val_str_by_index(NULL, 0, NULL, 0) == -1);
    CHECK(llama_set_adapters_lora(NULL, NULL, 0, NULL) == -1);
    CHECK(llama_set_adapter_cvec(NULL, NULL, 0, 0, 0, 0) == -1);
}

static void metadata_is_told(struct llama_adapter_lora *adapter) {
    char text[32];
    int32_t n = llama_adapter_meta_count(adapter);
    CHECK(n == 4);
    CHECK(llama_adapter_meta_val_str(adapter, "adapter.type", text, sizeof text) == 4 && strcmp(text, "lora") == 0);
    CHECK(llama_adapter_meta_val_str(adapter, "adapter.type", text, 3) == 4 && strcmp(text, "lo") == 0);
    CHECK(llama_adapter_meta_val_str(adapter, "nothing", text, sizeof text) == -1 && text[0] == 0);
    for (int32_t i = 0; i < n; i++) {
        char key[64], value[64];
        CHECK(llama_adapter_meta_key_by_index(adapter, i, key, sizeof key) > 0);
        CHECK(llama_adapter_meta_val_str_by_index(adapter, i, value, sizeof value) > 0);
    }
    CHECK(llama_adapter_meta_key_by_index(adapter, n, text, sizeof text) == -1);
    CHECK(llama_adapter_meta_key_by_index(adapter, -1, text, sizeof text) == -1);
    CHECK(llama_adapter_get_alora_n_invocation_tokens(adapter) == 3);
    CHECK(llama_adapter_get_alora_invocation_tokens(adapter)[2] == 4);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    llama_log_set(quiet, NULL);
    nothing_is_refused();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    struct llama_model *other = llama_model_load_from_file(argv[1], llama_model_default_params());
    CHECK(model != NULL && other != NULL);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    struct llama_context *ctx = llama_init_from_model(model, params);
    CHECK(ctx != NULL);

    CHECK(llama_adapter_lora_init(model, "/nowhere") == NULL && llama_adapter_lora_init(model, argv[1]) == NULL);
    CHECK(llama_adapter_lora_init(model, NULL) == NULL && llama_adapter_lora_init_from_file_ptr(model, NULL) == NULL);
    struct llama_adapter_lora *adapters[3];
    adapters[0] = llama_adapter_lora_init(model, argv[2]);
    FILE *file = fopen(argv[2], "rb");
    adapters[1] = llama_adapter_lora_init_from_file_ptr(model, file);
    fclose(file);
    adapters[2] = llama_adapter_lora_init(other, argv[2]);
    CHECK(adapters[0] != NULL && adapters[1] != NULL && adapters[2] != NULL);
    metadata_is_told(adapters[0]);

    float plain = first_logit(ctx), scales[3] = {1, 1, 1};
    CHECK(llama_set_adapters_lora(ctx, adapters, 1, scales) == 0);
    float with_one = first_logit(ctx);
    CHECK(fabsf(with_one - plain) > 1e-4f);
    CHECK(llama_set_adapters_lora(ctx, adapters, 3, scales) == -1 && first_logit(ctx) == with_one);
    CHECK(llama_set_adapters_lora(ctx, NULL, 1, scales) == -1 && llama_set_adapters_lora(ctx, adapters, 1, NULL) == -1);
    struct llama_adapter_lora *none = NULL;
    CHECK(llama_set_adapters_lora(ctx, &none, 1, scales) == -1 && first_logit(ctx) == with_one);
    CHECK(llama_set_adapters_lora(ctx, adapters, 2, scales) == 0);
    float with_two = first_logit(ctx);
    CHECK(fabsf(with_two - with_one) > 1e-4f);

    // Freed adapters are used until the context is told otherwise.
    llama_adapter_lora_free(adapters[0]);
    CHECK(first_logit(ctx) == with_two);
    CHECK(llama_set_adapters_lora(ctx, &adapters[1], 1, scales) == 0 && first_logit(ctx) == with_one);
    CHECK(llama_set_adapters_lora(ctx, NULL, 0, NULL) == 0 && first_logit(ctx) == plain);

    float control[64];
    for (int i = 0; i < 64; i++) {
        control[i] = (float)(i % 5);
    }
    CHECK(llama_set_adapter_cvec(ctx, control, 64, 63, 1, 1) == -1);
    CHECK(llama_set_adapter_cvec(ctx, control, 64, -64, 1, 1) == -1 && first_logit(ctx) == plain);
    CHECK(llama_set_adapter_cvec(ctx, control, 64, 64, 1, 1) == 0 && first_logit(ctx) != plain);
    CHECK(llama_set_adapter_cvec(ctx, NULL, 0, 0, 0, 0) == 0 && first_logit(ctx) == plain);

    // The other adapters go with their models.
    CHECK(llama_set_adapters_lora(ctx, &adapters[1], 1, scales) == 0);
    llama_model_free(model);
    CHECK(first_logit(ctx) == with_one);
    llama_free(ctx);
    llama_model_free(other);
    return 0;
}
