// Elementwise functions, by the numbers of `steps::activation`.

// Within 1.2e-7 (Numerical Recipes, a Chebyshev fit of erfc).
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * abs(x));
    var poly = 0.17087277;
    poly = poly * t - 0.82215223;
    poly = poly * t + 1.48851587;
    poly = poly * t - 1.13520398;
    poly = poly * t + 0.27886807;
    poly = poly * t - 0.18628806;
    poly = poly * t + 0.09678418;
    poly = poly * t + 0.37409196;
    poly = poly * t + 1.00002368;
    poly = poly * t - 1.26551223;
    let erfc = t * exp(-x * x + poly);
    return select(erfc - 1.0, 1.0 - erfc, x >= 0.0);
}

// tanh of a large number is infinity over infinity on some devices.
fn safe_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -20.0, 20.0));
}

fn activate(op: u32, x: f32) -> f32 {
    switch op {
        case 1u: { return x / (1.0 + exp(-x)); }
        case 2u: { return 0.5 * x * (1.0 + safe_tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x))); }
        case 3u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 4u: { return x / (1.0 + exp(-1.702 * x)); }
        case 5u: { return max(x, 0.0); }
        case 6u: { return 1.0 / (1.0 + exp(-x)); }
        case 7u: { return safe_tanh(x); }
        case 8u: { return exp(x); }
        case 9u: { return select(log(1.0 + exp(min(x, 20.0))), x, x > 20.0); }
        case 10u: { return x * x; }
        case 11u: { return sqrt(x); }
        case 12u: { return -x; }
        default: { return x; }
    }
}
