#include "ggml.h"
#include "ggml-backend.h"

// Settings of the optimizers.
struct ggml_opt_optimizer_params {
    // Of AdamW.
    struct {
        // Learning rate.
        float alpha;
        // Decay of the mean of gradients.
        float beta1;
        // Decay of the mean of their squares.
        float beta2;
        // Keeps divisions from overflowing.
        float eps;
        // Weight decay; 0: none.
        float wd;
    } adamw;
    // Of stochastic gradient descent.
    struct {
        // Learning rate.
        float alpha;
        // Weight decay; 0: none.
        float wd;
    } sgd;
};
