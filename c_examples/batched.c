// Continues one prompt in four ways at once: four sequences share the prompt, then every step decodes one token of each.
//
//     batched MODEL.gguf [PROMPT [N_PREDICT]]

#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_SEQ = 4, N_TOKENS_MAX = 2048 };

struct sequence {
    struct llama_sampler * sampler;
    llama_token            tokens[N_TOKENS_MAX];  // what was sampled so far
    int32_t                n_tokens;
    int32_t                i_batch;  // where in the batch its last token is
    bool                   done;
};

static int fail(const char * what) {
    fprintf(stderr, "batched: %s\n", what);
    return EXIT_FAILURE;
}

static void log_problems(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static void add_token(struct llama_batch * batch, llama_token token, llama_pos pos, llama_seq_id seq_id, bool output) {
    const int32_t at     = batch->n_tokens++;
    batch->token[at]     = token;
    batch->pos[at]       = pos;
    batch->n_seq_id[at]  = 1;
    batch->seq_id[at][0] = seq_id;
    batch->logits[at]    = output;
}

static int print_sequence(const struct llama_vocab * vocab, const struct sequence * sequence) {
    const int32_t n    = -llama_detokenize(vocab, sequence->tokens, sequence->n_tokens, NULL, 0, false, true);
    char *        text = malloc((size_t) (n > 0 ? n : 0) + 1);
    if (text == NULL || (n > 0 && llama_detokenize(vocab, sequence->tokens, sequence->n_tokens, text, n, false, true) != n)) {
        free(text);
        return fail("cannot make text of the tokens");
    }
    text[n > 0 ? n : 0] = '\0';
    printf("%s\n", text);
    free(text);
    return EXIT_SUCCESS;
}

// Samples one token for each sequence that goes on, and makes them the next batch.
static void sample_step(struct llama_context * ctx, struct llama_batch * batch, struct sequence * sequences, llama_pos pos) {
    const struct llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    batch->n_tokens                  = 0;
    for (int32_t s = 0; s < N_SEQ; s++) {
        struct sequence * sequence = &sequences[s];
        if (sequence->done) {
            continue;
        }
        const llama_token token = llama_sampler_sample(sequence->sampler, ctx, sequence->i_batch);
        if (llama_vocab_is_eog(vocab, token)) {
            sequence->done = true;
            continue;
        }
        sequence->tokens[sequence->n_tokens++] = token;
        sequence->i_batch                      = batch->n_tokens;
        add_token(batch, token, pos, s, true);
    }
}

static int generate(struct llama_context * ctx, struct llama_batch * batch, struct sequence * sequences, int32_t n_predict) {
    // The prompt is decoded once, as sequence 0, and then belongs to all of them.
    const int32_t n_prompt = batch->n_tokens;
    if (llama_decode(ctx, *batch) != 0) {
        return fail("cannot decode the prompt");
    }
    for (int32_t s = 0; s < N_SEQ; s++) {
        if (s > 0) {
            llama_memory_seq_cp(llama_get_memory(ctx), 0, s, -1, -1);
        }
        sequences[s].i_batch = n_prompt - 1;
    }

    const int64_t t_start  = llama_time_us();
    int32_t       n_tokens = 0;
    for (int32_t i = 0; i < n_predict; i++) {
        sample_step(ctx, batch, sequences, n_prompt + i);
        if (batch->n_tokens == 0) {
            break;
        }
        if (llama_decode(ctx, *batch) != 0) {
            return fail("cannot decode");
        }
        n_tokens += batch->n_tokens;
    }
    const double seconds = 1e-6 * (double) (llama_time_us() - t_start);

    for (int32_t s = 0; s < N_SEQ; s++) {
        printf("--- %d ---\n", s);
        if (print_sequence(llama_model_get_vocab(llama_get_model(ctx)), &sequences[s]) != EXIT_SUCCESS) {
            return EXIT_FAILURE;
        }
    }
    fprintf(stderr, "%d tokens in %d sequences, %.1f tokens/s\n", n_tokens, N_SEQ, seconds > 0 ? n_tokens / seconds : 0.0);
    return EXIT_SUCCESS;
}

static int run(struct llama_model * model, const char * prompt, int32_t n_predict) {
    llama_token   tokens[N_TOKENS_MAX];
    const int32_t n_prompt = llama_tokenize(llama_model_get_vocab(model), prompt, (int32_t) strlen(prompt), tokens,
                                            N_TOKENS_MAX, true, true);
    if (n_prompt < 1) {
        return fail("the prompt has no tokens or too many");
    }

    struct llama_context_params params = llama_context_default_params();
    params.kv_unified                  = true;  // one cache: the prompt's cells are shared, not copied
    params.n_seq_max                   = N_SEQ;
    params.n_ctx                       = (uint32_t) (n_prompt + N_SEQ * n_predict);
    params.n_batch                     = N_TOKENS_MAX;

    struct llama_context * ctx       = llama_init_from_model(model, params);
    struct llama_batch     batch     = llama_batch_init(N_TOKENS_MAX, 0, 1);
    struct sequence *      sequences = calloc(N_SEQ, sizeof(*sequences));

    int status = EXIT_FAILURE;
    if (ctx == NULL || sequences == NULL) {
        fail("cannot make the context");
    } else {
        for (uint32_t s = 0; s < N_SEQ; s++) {
            sequences[s].sampler = llama_sampler_chain_init(llama_sampler_chain_default_params());
            llama_sampler_chain_add(sequences[s].sampler, llama_sampler_init_top_k(40));
            llama_sampler_chain_add(sequences[s].sampler, llama_sampler_init_temp(0.8f));
            llama_sampler_chain_add(sequences[s].sampler, llama_sampler_init_dist(s));
        }
        for (int32_t i = 0; i < n_prompt; i++) {
            add_token(&batch, tokens[i], i, 0, i == n_prompt - 1);
        }
        status = generate(ctx, &batch, sequences, n_predict);
        for (int32_t s = 0; s < N_SEQ; s++) {
            llama_sampler_free(sequences[s].sampler);
        }
    }
    free(sequences);
    llama_batch_free(batch);
    llama_free(ctx);
    return status;
}

int main(int argc, char ** argv) {
    const char * prompt    = argc > 2 ? argv[2] : "Once upon a time";
    const long   n_predict = argc > 3 ? strtol(argv[3], NULL, 10) : 32;
    if (argc < 2 || argc > 4 || n_predict < 1 || n_predict > N_TOKENS_MAX) {
        return fail("usage: batched MODEL.gguf [PROMPT [N_PREDICT]]");
    }

    llama_log_set(log_problems, NULL);
    llama_backend_init();
    struct llama_model * model  = llama_model_load_from_file(argv[1], llama_model_default_params());
    const int            status = model == NULL ? fail("cannot load the model") : run(model, prompt, (int32_t) n_predict);
    llama_model_free(model);
    llama_backend_free();
    return status;
}
