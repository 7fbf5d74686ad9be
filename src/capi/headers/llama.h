#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ggml.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-opt.h"
#include "gguf.h"

#ifndef LLAMA_API
#define LLAMA_API __attribute__((visibility("default")))
#endif

#define LLAMA_DEPRECATED(note) __attribute__((deprecated(note)))

#define LLAMA_DEFAULT_SEED 0xFFFFFFFF
#define LLAMA_TOKEN_NULL -1

// The first number of files that sessions and sequences are saved in, and the version of their format.
#define LLAMA_FILE_MAGIC_GGLA 0x67676c61u
#define LLAMA_FILE_MAGIC_GGSN 0x6767736eu
#define LLAMA_FILE_MAGIC_GGSQ 0x67677371u
#define LLAMA_SESSION_MAGIC LLAMA_FILE_MAGIC_GGSN
#define LLAMA_SESSION_VERSION 10
#define LLAMA_STATE_SEQ_MAGIC LLAMA_FILE_MAGIC_GGSQ
#define LLAMA_STATE_SEQ_VERSION 3

// Which part of a sequence is saved, and where to.
#define LLAMA_STATE_SEQ_FLAGS_NONE 0
#define LLAMA_STATE_SEQ_FLAGS_SWA_ONLY 1
#define LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY 1
#define LLAMA_STATE_SEQ_FLAGS_ON_DEVICE 2

// The largest number of enum llama_rope_scaling_type.
enum { LLAMA_ROPE_SCALING_TYPE_MAX_VALUE = 3 };

struct llama_sampler;
typedef struct llama_token_data llama_token_data;
typedef struct llama_token_data_array llama_token_data_array;
typedef struct llama_batch llama_batch;
typedef struct llama_logit_bias llama_logit_bias;
typedef struct llama_sampler_chain_params llama_sampler_chain_params;
typedef struct llama_chat_message llama_chat_message;

// Which member of a llama_model_kv_override's union is set.
enum llama_model_kv_override_type {
    LLAMA_KV_OVERRIDE_TYPE_INT = 0,
    LLAMA_KV_OVERRIDE_TYPE_FLOAT = 1,
    LLAMA_KV_OVERRIDE_TYPE_BOOL = 2,
    LLAMA_KV_OVERRIDE_TYPE_STR = 3,
};

// One metadata value to use instead of the file's.
struct llama_model_kv_override {
    // Which member of the union is set.
    enum llama_model_kv_override_type tag;
    // NUL-terminated key; empty in the last element of a list.
    char key[128];
    union {
        int64_t val_i64;
        double val_f64;
        bool val_bool;
        // NUL-terminated.
        char val_str[128];
    };
};
