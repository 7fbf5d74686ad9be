#include "ggml.h"

#define GGUF_VERSION 3
#define GGUF_DEFAULT_ALIGNMENT 32
