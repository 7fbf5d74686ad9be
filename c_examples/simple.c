// Completes a prompt greedily and prints each piece of text as soon as it is there.
//
//     simple MODEL.gguf [PROMPT [N_PREDICT]]

#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char * what) {
    fprintf(stderr, "simple: %s\n", what);
    return EXIT_FAILURE;
}

// The library tells much about a model while loading it; here only what went wrong is of interest.
static void log_problems(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static int print_piece(const struct llama_vocab * vocab, llama_token token) {
    char          piece[256];
    const int32_t n = llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
    if (n < 0) {
        return fail("a token's text is too long");
    }
    fwrite(piece, 1, (size_t) n, stdout);
    fflush(stdout);
    return EXIT_SUCCESS;
}

// Decodes the prompt, then one token after another until the model ends its text or n_predict tokens are there.
static int generate(struct llama_context * ctx, struct llama_sampler * sampler, llama_token * prompt, int32_t n_prompt,
                    int32_t n_predict) {
    const struct llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));

    const int64_t      t_start   = llama_time_us();
    int64_t            t_prompt  = t_start;
    int32_t            n_decoded = 0;
    llama_token        token     = LLAMA_TOKEN_NULL;
    struct llama_batch batch     = llama_batch_get_one(prompt, n_prompt);
    while (n_decoded < n_predict) {
        if (llama_decode(ctx, batch) != 0) {
            return fail("cannot decode");
        }
        token = llama_sampler_sample(sampler, ctx, -1);
        if (n_decoded++ == 0) {
            t_prompt = llama_time_us();
        }
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        if (print_piece(vocab, token) != EXIT_SUCCESS) {
            return EXIT_FAILURE;
        }
        batch = llama_batch_get_one(&token, 1);
    }
    const double prompt_s = 1e-6 * (double) (t_prompt - t_start);
    const double decode_s = 1e-6 * (double) (llama_time_us() - t_prompt);

    // The first token came with the prompt.
    printf("\n");
    fflush(stdout);
    fprintf(stderr, "prompt: %d tokens, %.1f tokens/s; then: %d tokens, %.1f tokens/s\n", n_prompt,
            prompt_s > 0 ? n_prompt / prompt_s : 0.0, n_decoded - 1, decode_s > 0 ? (n_decoded - 1) / decode_s : 0.0);
    return EXIT_SUCCESS;
}

static int complete(struct llama_model * model, const char * prompt, int32_t n_predict) {
    const struct llama_vocab * vocab = llama_model_get_vocab(model);

    // With no room for the tokens, the answer is their number, negated.
    const int32_t length   = (int32_t) strlen(prompt);
    const int32_t n_prompt = -llama_tokenize(vocab, prompt, length, NULL, 0, true, true);
    if (n_prompt <= 0) {
        return fail("the prompt has no tokens");
    }
    llama_token * tokens = malloc((size_t) n_prompt * sizeof(*tokens));
    if (tokens == NULL || llama_tokenize(vocab, prompt, length, tokens, n_prompt, true, true) != n_prompt) {
        free(tokens);
        return fail("cannot tokenize the prompt");
    }

    struct llama_context_params params = llama_context_default_params();
    params.n_ctx                       = (uint32_t) (n_prompt + n_predict);
    params.n_batch                     = (uint32_t) n_prompt;
    struct llama_context * ctx         = llama_init_from_model(model, params);
    struct llama_sampler * sampler     = llama_sampler_init_greedy();

    int status = EXIT_FAILURE;
    if (ctx == NULL || sampler == NULL) {
        fail("cannot make the context");
    } else {
        printf("%s", prompt);
        status = generate(ctx, sampler, tokens, n_prompt, n_predict);
    }
    llama_sampler_free(sampler);
    llama_free(ctx);
    free(tokens);
    return status;
}

int main(int argc, char ** argv) {
    const char * prompt    = argc > 2 ? argv[2] : "Hello, my name is";
    const long   n_predict = argc > 3 ? strtol(argv[3], NULL, 10) : 64;
    if (argc < 2 || argc > 4 || n_predict < 1 || n_predict > 100000) {
        return fail("usage: simple MODEL.gguf [PROMPT [N_PREDICT]]");
    }

    llama_log_set(log_problems, NULL);
    llama_backend_init();
    struct llama_model * model  = llama_model_load_from_file(argv[1], llama_model_default_params());
    const int            status = model == NULL ? fail("cannot load the model") : complete(model, prompt, (int32_t) n_predict);
    llama_model_free(model);
    llama_backend_free();
    return status;
}
