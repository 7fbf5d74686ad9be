// A conversation: reads a line, answers it piece by piece, reads the next one, until the end of input.
//
//     chat MODEL.gguf [SYSTEM_PROMPT]

#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CTX = 2048, N_MESSAGES_MAX = 256, LINE_MAX_BYTES = 4096 };

struct text {
    char * bytes;  // always ends with a zero byte once something was added
    size_t length;
};

struct conversation {
    struct llama_context *    ctx;
    struct llama_sampler *    sampler;
    const char *              template;  // the model's chat template, or NULL for ChatML
    struct llama_chat_message messages[N_MESSAGES_MAX];
    size_t                    n_messages;
    size_t                    n_seen;  // bytes of the formatted conversation that the model has seen
};

static int fail(const char * what) {
    fprintf(stderr, "chat: %s\n", what);
    return EXIT_FAILURE;
}

static void log_problems(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static bool text_add(struct text * text, const char * bytes, size_t length) {
    char * grown = realloc(text->bytes, text->length + length + 1);
    if (grown == NULL) {
        return false;
    }
    memcpy(grown + text->length, bytes, length);
    text->bytes  = grown;
    text->length = text->length + length;
    grown[text->length] = '\0';
    return true;
}

// Keeps a copy of the content. Roles are string literals.
static bool add_message(struct conversation * chat, const char * role, const char * content) {
    struct text copy = { NULL, 0 };
    if (chat->n_messages == N_MESSAGES_MAX || !text_add(&copy, content, strlen(content))) {
        return false;
    }
    chat->messages[chat->n_messages].role    = role;
    chat->messages[chat->n_messages].content = copy.bytes;
    chat->n_messages++;
    return true;
}

// Formats the whole conversation, with the head of the assistant's answer if `open`. Frees nothing; NULL on failure.
static char * format(const struct conversation * chat, bool open, size_t * length) {
    const int32_t n = llama_chat_apply_template(chat->template, chat->messages, chat->n_messages, open, NULL, 0);
    if (n < 0) {
        return NULL;
    }
    char * formatted = malloc((size_t) n + 1);
    if (formatted == NULL ||
        llama_chat_apply_template(chat->template, chat->messages, chat->n_messages, open, formatted, n + 1) != n) {
        free(formatted);
        return NULL;
    }
    formatted[n] = '\0';
    *length      = (size_t) n;
    return formatted;
}

// Decodes the tokens and what the model says after them, printing it and adding it to `answer`.
static int generate(struct conversation * chat, llama_token * tokens, int32_t n_tokens, struct text * answer) {
    const struct llama_vocab * vocab = llama_model_get_vocab(llama_get_model(chat->ctx));
    const llama_memory_t       mem   = llama_get_memory(chat->ctx);
    llama_token                token = LLAMA_TOKEN_NULL;
    struct llama_batch         batch = llama_batch_get_one(tokens, n_tokens);
    for (;;) {
        const llama_pos n_past = llama_memory_seq_pos_max(mem, 0) + 1;
        if (n_past + batch.n_tokens > (int32_t) llama_n_ctx(chat->ctx)) {
            return fail("the conversation fills the context");
        }
        if (llama_decode(chat->ctx, batch) != 0) {
            return fail("cannot decode");
        }
        token = llama_sampler_sample(chat->sampler, chat->ctx, -1);
        if (llama_vocab_is_eog(vocab, token)) {
            return EXIT_SUCCESS;
        }
        char          piece[256];
        const int32_t n = llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
        if (n < 0 || !text_add(answer, piece, (size_t) n)) {
            return fail("cannot keep the answer");
        }
        fwrite(piece, 1, (size_t) n, stdout);
        fflush(stdout);
        batch = llama_batch_get_one(&token, 1);
    }
}

// Gives the model what is new in the conversation and prints its answer.
static int respond(struct conversation * chat, struct text * answer) {
    const struct llama_vocab * vocab = llama_model_get_vocab(llama_get_model(chat->ctx));

    size_t length    = 0;
    char * formatted = format(chat, true, &length);
    if (formatted == NULL) {
        return fail("the model's chat template is not known");
    }
    const char *  news     = formatted + chat->n_seen;
    const int32_t n_news   = (int32_t) (length - chat->n_seen);
    const bool    first    = chat->n_seen == 0;
    const int32_t n_tokens = -llama_tokenize(vocab, news, n_news, NULL, 0, first, true);
    llama_token * tokens   = n_tokens > 0 ? malloc((size_t) n_tokens * sizeof(*tokens)) : NULL;

    int status = EXIT_FAILURE;
    if (tokens == NULL || llama_tokenize(vocab, news, n_news, tokens, n_tokens, first, true) != n_tokens) {
        fail("cannot tokenize the message");
    } else {
        status = generate(chat, tokens, n_tokens, answer);
    }
    free(tokens);
    free(formatted);
    return status;
}

static int converse(struct conversation * chat) {
    char line[LINE_MAX_BYTES];
    for (;;) {
        printf("> ");
        fflush(stdout);
        if (fgets(line, sizeof(line), stdin) == NULL) {
            printf("\n");
            return ferror(stdin) ? fail("cannot read") : EXIT_SUCCESS;
        }
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '\0') {
            continue;
        }

        struct text answer = { NULL, 0 };
        int         status = EXIT_FAILURE;
        if (!add_message(chat, "user", line)) {
            fail("too many messages");
        } else {
            status = respond(chat, &answer);
        }
        printf("\n");
        if (status == EXIT_SUCCESS && !add_message(chat, "assistant", answer.bytes == NULL ? "" : answer.bytes)) {
            status = fail("too many messages");
        }
        free(answer.bytes);
        if (status != EXIT_SUCCESS) {
            return status;
        }

        char * formatted = format(chat, false, &chat->n_seen);
        free(formatted);
        if (formatted == NULL) {
            return fail("the model's chat template is not known");
        }
    }
}

static int run(struct llama_model * model, const char * system_prompt) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx                       = N_CTX;
    params.n_batch                     = N_CTX;

    struct conversation chat = {
        .ctx      = llama_init_from_model(model, params),
        .sampler  = llama_sampler_chain_init(llama_sampler_chain_default_params()),
        .template = llama_model_chat_template(model, NULL),
    };

    int status = EXIT_FAILURE;
    if (chat.ctx == NULL || chat.sampler == NULL) {
        fail("cannot make the context");
    } else if (system_prompt != NULL && !add_message(&chat, "system", system_prompt)) {
        fail("out of memory");
    } else {
        llama_sampler_chain_add(chat.sampler, llama_sampler_init_min_p(0.05f, 1));
        llama_sampler_chain_add(chat.sampler, llama_sampler_init_temp(0.7f));
        llama_sampler_chain_add(chat.sampler, llama_sampler_init_dist(LLAMA_DEFAULT_SEED));
        status = converse(&chat);
    }

    for (size_t i = 0; i < chat.n_messages; i++) {
        free((char *) chat.messages[i].content);
    }
    llama_sampler_free(chat.sampler);  // and those in the chain
    llama_free(chat.ctx);
    return status;
}

int main(int argc, char ** argv) {
    if (argc < 2 || argc > 3) {
        return fail("usage: chat MODEL.gguf [SYSTEM_PROMPT]");
    }

    llama_log_set(log_problems, NULL);
    llama_backend_init();
    struct llama_model * model  = llama_model_load_from_file(argv[1], llama_model_default_params());
    const int            status = model == NULL ? fail("cannot load the model") : run(model, argc > 2 ? argv[2] : NULL);
    llama_model_free(model);
    llama_backend_free();
    return status;
}
