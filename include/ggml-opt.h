// Part of libinfer. Nothing of ggml's training is in the library; the header is there for programs that include it.

#pragma once

#include "ggml.h"
#include "ggml-backend.h"
