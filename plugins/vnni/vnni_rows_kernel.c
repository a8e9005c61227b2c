/* vnni_rows_kernel.c: norms, rotations, gates and sums of plain arrays; compiled once per instruction
 * set. What must be exact to the bit multiplies and adds as scalar does. */
#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_simd.h"

#include "hal/half.h"

void VNNI_BASE_KERNEL(rmsnorm)(float *y, const float *x, const float *w, uint32_t rows, uint32_t cols,
                          float eps)
{
    for (uint32_t r = 0; r < rows; r++, x += cols, y += cols) {
        VF squares[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        uint32_t i = 0;
        for (; i + 4 * VF_LANES <= cols; i += 4 * VF_LANES) {
            UNROLL for (uint32_t k = 0; k < 4; k++)
            {
                const VF v = vf_load(x + i + k * VF_LANES);
                squares[k] = vf_fma(v, v, squares[k]);
            }
        }
        for (; i < cols; i += VF_LANES) {
            const VF v = vf_load_part(x + i, cols - i);
            squares[0] = vf_fma(v, v, squares[0]);
        }
        const VF all = vf_add(vf_add(squares[0], squares[1]), vf_add(squares[2], squares[3]));
        const float mean = vf_sum(all) / (float)cols;
        const VF factor = vf_set(1.0f / __builtin_sqrtf(mean + eps));
        for (i = 0; i < cols; i += VF_LANES) {
            const VF v = vf_mul(vf_load_part(x + i, cols - i), factor);
            vf_store_part(y + i, vf_mul(v, vf_load_part(w + i, cols - i)), cols - i);
        }
    }
}

/* Sum of x in the order of scalar_lanes.h: of equal values the mean is exactly scalar's, and x - mean is
 * 0 on both sides or on neither. */
static float sum_in_lanes(const float *x, uint32_t count)
{
    VF sum[HALVES];
    float lane[16];
    for (int h = 0; h < HALVES; h++)
        sum[h] = vf_zero();
    uint32_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int h = 0; h < HALVES; h++)
            sum[h] = vf_add(sum[h], vf_load(x + i + h * VF_LANES));
    for (int h = 0; h < HALVES; h++)
        vf_store(lane + h * VF_LANES, sum[h]);
    for (uint32_t l = 0; i < count; i++, l++)
        lane[l] += x[i];
    for (uint32_t half = 8; half > 0; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

void VNNI_BASE_KERNEL(layernorm)(float *y, const float *x, const float *w, const float *b, uint32_t rows,
                            uint32_t cols, float eps)
{
    for (uint32_t r = 0; r < rows; r++, x += cols, y += cols) {
        const VF mean = vf_set(sum_in_lanes(x, cols) / (float)cols);
        VF squares[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        uint32_t i = 0;
        for (; i + 4 * VF_LANES <= cols; i += 4 * VF_LANES) {
            UNROLL for (uint32_t k = 0; k < 4; k++)
            {
                const VF v = vf_sub(vf_load(x + i + k * VF_LANES), mean);
                squares[k] = vf_fma(v, v, squares[k]);
            }
        }
        for (; i < cols; i += VF_LANES) {
            const VF v = vf_first(cols - i, vf_sub(vf_load_part(x + i, cols - i), mean), vf_zero());
            squares[0] = vf_fma(v, v, squares[0]);
        }
        const VF all = vf_add(vf_add(squares[0], squares[1]), vf_add(squares[2], squares[3]));
        const VF factor = vf_set(1.0f / __builtin_sqrtf(vf_sum(all) / (float)cols + eps));
        for (i = 0; i < cols; i += VF_LANES) {
            const VF v = vf_mul(vf_sub(vf_load_part(x + i, cols - i), mean), factor);
            VF scaled = vf_mul(v, vf_load_part(w + i, cols - i));
            if (b != NULL)
                scaled = vf_add(scaled, vf_load_part(b + i, cols - i));
            vf_store_part(y + i, scaled, cols - i);
        }
    }
}

/* One head: pairs `apart` values from each other. */
static void rotate_neox(float *a, const float *cosine, const float *sine, uint32_t half)
{
    float *b = a + half;
    for (uint32_t p = 0; p < half; p += VF_LANES) {
        const uint32_t n = half - p;
        const VF u = vf_load_part(a + p, n), v = vf_load_part(b + p, n);
        const VF c = vf_load_part(cosine + p, n), s = vf_load_part(sine + p, n);
        vf_store_part(a + p, vf_sub(vf_mul(u, c), vf_mul(v, s)), n);
        vf_store_part(b + p, vf_add(vf_mul(u, s), vf_mul(v, c)), n);
    }
}

static void rotate_norm(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t p = 0; p < half; p++) {
        const float u = x[2 * p], v = x[2 * p + 1];
        x[2 * p] = u * cosine[p] - v * sine[p];
        x[2 * p + 1] = u * sine[p] + v * cosine[p];
    }
}

void VNNI_BASE_KERNEL(rope)(float *x, const float *cos_sin, const struct hal_rope_shape *shape,
                       uint32_t rows, uint32_t cols)
{
    const uint32_t half = shape->dims / 2;
    for (uint32_t r = 0; r < rows; r++, x += cols, cos_sin += shape->dims) {
        for (uint32_t head = 0; head < cols; head += shape->head_dim) {
            float *at = x + head + shape->offset;
            if (shape->kind == HAL_ROPE_NEOX)
                rotate_neox(at, cos_sin, cos_sin + half, half);
            else
                rotate_norm(at, cos_sin, cos_sin + half, half);
        }
    }
}

/* x * erfc(-x / sqrt(2)) / 2. For a >= 0, erfc(a) = e^(-a a) t P(t) with t = 1 / (1 + a / 2) and P fitted
 * for the least relative error on a <= 9.6: 2e-7 in F32. What the square of a loses to rounding is put
 * back, so that the tail keeps its digits. */
INLINE VF gelu_erf(VF x)
{
    static const float coefficient[] = {0.282087386f,  0.282358557f,  0.243224621f,
                                        0.202212319f,  -0.0255114418f, 0.276458979f,
                                        -0.48580125f,  0.283902466f,  -0.0589316674f};
    const VF a = vf_min(vf_set(13.0f), vf_abs(vf_mul(x, vf_set(0.7071067812f))));
    const VF t = vf_div(vf_set(1.0f), vf_fma(vf_set(0.5f), a, vf_set(1.0f)));
    VF p = vf_set(coefficient[8]);
    UNROLL for (int k = 7; k >= 0; k--)
        p = vf_fma(p, t, vf_set(coefficient[k]));
    const VF square = vf_mul(a, a), lost = vf_fma(a, a, vf_negate(square));
    const VF e = vf_exp(vf_negate(square));
    const VF tail = vf_mul(vf_mul(vf_set(0.5f), vf_mul(t, p)), vf_fnma(e, lost, e));
    const VF share = vf_select(vf_greater(x, vf_zero()), vf_sub(vf_set(1.0f), tail), tail);
    return vf_mul(x, share);
}

/* x / (1 + e^-u): SiLU with u = x; GELU's tanh form is the same with twice its inner polynomial. */
INLINE VF gate_of(VF x, uint32_t function)
{
    VF u = x;
    if (function == HAL_RELU)
        return vf_max(vf_zero(), x);
    if (function == HAL_GELU_ERF)
        return gelu_erf(x);
    if (function == HAL_GELU_TANH) {
        const VF cube = vf_mul(vf_mul(x, x), x);
        u = vf_mul(vf_set(2.0f * 0.7978845608f), vf_fma(vf_set(0.044715f), cube, x));
    }
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), u))));
}

INLINE void gate_all(float *y, const float *gate, const float *up, size_t count, uint32_t function)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        const uint32_t n = count - i < VF_LANES ? (uint32_t)(count - i) : VF_LANES;
        VF g = gate_of(vf_load_part(gate + i, n), function);
        if (up != NULL)
            g = vf_mul(g, vf_load_part(up + i, n));
        vf_store_part(y + i, g, n);
    }
}

void VNNI_BASE_KERNEL(glu)(float *y, const float *gate, const float *up, size_t count, uint32_t function)
{
    if (function == HAL_SILU)
        gate_all(y, gate, up, count, HAL_SILU);
    else if (function == HAL_GELU_TANH)
        gate_all(y, gate, up, count, HAL_GELU_TANH);
    else if (function == HAL_GELU_ERF)
        gate_all(y, gate, up, count, HAL_GELU_ERF);
    else
        gate_all(y, gate, up, count, HAL_RELU);
}

void VNNI_BASE_KERNEL(add)(float *y, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += x[i];
}

void VNNI_BASE_KERNEL(scale)(float *y, float factor, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] *= factor;
}

void VNNI_BASE_KERNEL(scatter)(float *y, const float *x, float weight, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += weight * x[i];
}

void VNNI_BASE_KERNEL(store)(const float *x, uint32_t cols, void *row)
{
    uint8_t *out = row;

    uint32_t i = 0;
    for (; i + 8 <= cols; i += 8) {
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * (size_t)i), half);
    }
    for (; i < cols; i++) {
        const uint16_t half = half_f32_to_f16(x[i]);
        memcpy(out + 2 * (size_t)i, &half, sizeof half);
    }
}

void VNNI_BASE_KERNEL(load)(uint32_t type, const void *row, uint32_t cols, float *x)
{
    const uint8_t *in = row;
    uint32_t i = 0;
    if (type == HAL_Q8_0) {
        for (; i < cols; i += 32, in += 34) {
            uint16_t half;
            memcpy(&half, in, sizeof half);
            const VF scale = vf_set(half_f16_to_f32(half));
            for (uint32_t j = 0; j < 32; j += VF_LANES) {
                const VF codes = vf_from_8((const int8_t *)in + 2 + j);
                vf_store(x + i + j, vf_mul(codes, scale));
            }
        }
        return;
    }
    for (; i + VF_LANES <= cols; i += VF_LANES)
        vf_store(x + i, type == HAL_F16 ? vf_from_f16(in + 2 * (size_t)i)
                                        : vf_from_bf16(in + 2 * (size_t)i));
    for (; i < cols; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * (size_t)i, sizeof half);
        x[i] = type == HAL_F16 ? half_f16_to_f32(half) : half_bf16_to_f32(half);
    }
}
