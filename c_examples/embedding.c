// Embeds texts, all of them in one batch, and prints how similar each is to the first one.
//
//     embedding MODEL.gguf TEXT TEXT...

#include "llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS_MAX = 512, N_TEXTS_MAX = 64 };  // tokens are per text

static int fail(const char * what) {
    fprintf(stderr, "embedding: %s\n", what);
    return EXIT_FAILURE;
}

static void log_problems(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

// Adds the text as the sequence seq_id. Every token is an output: pooling needs them all.
static bool add_text(struct llama_batch * batch, const struct llama_vocab * vocab, const char * text, llama_seq_id seq_id) {
    llama_token   tokens[N_TOKENS_MAX];
    const int32_t n = llama_tokenize(vocab, text, (int32_t) strlen(text), tokens, N_TOKENS_MAX, true, false);
    for (int32_t i = 0; i < n; i++) {
        const int32_t at     = batch->n_tokens++;
        batch->token[at]     = tokens[i];
        batch->pos[at]       = i;
        batch->n_seq_id[at]  = 1;
        batch->seq_id[at][0] = seq_id;
        batch->logits[at]    = 1;
    }
    return n > 0;
}

// The embedding of a whole text: pooled as the model says, else that of its last token. The context owns it.
static const float * embedding(struct llama_context * ctx, const struct llama_batch * batch, llama_seq_id seq_id) {
    if (llama_pooling_type(ctx) != LLAMA_POOLING_TYPE_NONE) {
        return llama_get_embeddings_seq(ctx, seq_id);
    }
    int32_t last = -1;
    for (int32_t i = 0; i < batch->n_tokens; i++) {
        if (batch->seq_id[i][0] == seq_id) {
            last = i;
        }
    }
    return llama_get_embeddings_ith(ctx, last);
}

static double cosine(const float * a, const float * b, int32_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int32_t i = 0; i < n; i++) {
        ab += (double) a[i] * (double) b[i];
        aa += (double) a[i] * (double) a[i];
        bb += (double) b[i] * (double) b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static int compare(struct llama_context * ctx, struct llama_batch * batch, char ** texts, int32_t n_texts) {
    const struct llama_model * model = llama_get_model(ctx);
    for (int32_t i = 0; i < n_texts; i++) {
        if (!add_text(batch, llama_model_get_vocab(model), texts[i], i)) {
            return fail("a text has no tokens or too many");
        }
    }
    if (llama_decode(ctx, *batch) != 0) {
        return fail("cannot decode");
    }
    const int32_t n_embd = llama_model_n_embd_out(model);
    const float * first  = embedding(ctx, batch, 0);
    for (int32_t i = 0; i < n_texts; i++) {
        const float * other = embedding(ctx, batch, i);
        if (first == NULL || other == NULL) {
            return fail("the context gave no embedding");
        }
        printf("%7.4f  [%g, %g, %g, ...]  %s\n", cosine(first, other, n_embd), (double) other[0], (double) other[1],
               (double) other[2], texts[i]);
    }
    return EXIT_SUCCESS;
}

static int run(struct llama_model * model, char ** texts, int32_t n_texts) {
    const int32_t n_tokens = n_texts * N_TOKENS_MAX;

    struct llama_context_params params = llama_context_default_params();
    params.embeddings                  = true;
    params.kv_unified                  = true;  // the texts share one cache, each takes what it needs
    params.n_seq_max                   = (uint32_t) n_texts;
    params.n_ctx                       = (uint32_t) n_tokens;
    params.n_batch                     = (uint32_t) n_tokens;
    params.n_ubatch                    = (uint32_t) n_tokens;  // attention without a causal mask needs a text at once

    struct llama_context * ctx    = llama_init_from_model(model, params);
    struct llama_batch     batch  = llama_batch_init(n_tokens, 0, 1);
    const int              status = ctx == NULL ? fail("cannot make the context") : compare(ctx, &batch, texts, n_texts);
    llama_batch_free(batch);
    llama_free(ctx);
    return status;
}

int main(int argc, char ** argv) {
    if (argc < 3 || argc > 2 + N_TEXTS_MAX) {
        return fail("usage: embedding MODEL.gguf TEXT...");
    }

    llama_log_set(log_problems, NULL);
    llama_backend_init();
    struct llama_model * model  = llama_model_load_from_file(argv[1], llama_model_default_params());
    const int            status = model == NULL ? fail("cannot load the model") : run(model, argv + 2, argc - 2);
    llama_model_free(model);
    llama_backend_free();
    return status;
}
