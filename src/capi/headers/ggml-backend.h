#include "ggml.h"

#define GGML_BACKEND_META_MAX_DEVICES 16
