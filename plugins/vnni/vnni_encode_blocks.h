/* vnni_encode_blocks.h: the second half of vnni_encode_kernel.c, which alone includes it: from groups to
 * blocks. */
#ifndef VNNI_ENCODE_BLOCKS_H
#define VNNI_ENCODE_BLOCKS_H

INLINE uint32_t block_groups(uint32_t type)
{
    return type == HAL_Q2_K || type == HAL_Q3_K || type == HAL_Q6_K ? 16
           : type == HAL_NF4                                        ? 4
           : type == HAL_Q4_K || type == HAL_Q5_K || type == HAL_IQ4_XS ? 8
                                                                        : 1;
}

/* The d and dmin of each block to its groups. */
INLINE void spread_scales(uint32_t type, struct batch *b)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        const struct block_scales *s = &b->scales[g / block_groups(type)];
        b->d[g] = half_f16_to_f32(s->d);
        b->dmin[g] = half_f16_to_f32(s->dmin);
    }
}

/* Products of one refinement whose sums over a block give its d and dmin. */
struct products {
    _Alignas(64) float a[GROUPS], b[GROUPS], c[GROUPS], p[GROUPS], q[GROUPS];
};

INLINE void refine_groups(uint32_t type, const struct format *f, struct batch *b,
                          struct products *out)
{
    for (int v = 0; v < VECTORS; v++) {
        const int at = v * VF_LANES;
        const VF d[2] = {vf_load(b->d + at), vf_load(b->dmin + at)};
        VF s = vf_load(b->scale + at);
        if (!is_ranged(type)) {
            s = pick_signed(type, f, b, v, d[0], s);
            const struct sums u =
                sums_of(type, f, b, v, vf_zero(), inverse_of(vf_mul(d[0], s)));
            vf_store(out->p + at, vf_mul(s, u.xl));
            vf_store(out->a + at, vf_mul(vf_mul(s, s), u.ll));
            vf_store(b->scale + at, s);
            continue;
        }
        VF m = vf_load(b->minimum + at), sum_w, sum_x;
        pick_ranged(type, f, b, v, d, &s, &m);
        const struct sums u =
            sums_of(type, f, b, v, vf_mul(d[1], m), inverse_of(vf_mul(d[0], s)));
        group_sums(type, b, v, &sum_w, &sum_x);
        vf_store(out->a + at, vf_mul(vf_mul(s, s), u.ll));
        vf_store(out->b + at, vf_mul(vf_mul(s, m), u.l));
        vf_store(out->c + at, vf_mul(vf_mul(m, m), sum_w));
        vf_store(out->p + at, vf_mul(s, u.xl));
        vf_store(out->q + at, vf_mul(m, sum_x));
        vf_store(b->scale + at, s);
        vf_store(b->minimum + at, m);
    }
}

/* d (and dmin) of one block from the products of its groups, first.. */
INLINE void refit_block(uint32_t type, const struct products *of, uint32_t first,
                        struct block_scales *scales)
{
    float a = 0.0f, b = 0.0f, c = 0.0f, p = 0.0f, q = 0.0f;
    for (uint32_t g = first; g < first + block_groups(type); g++) {
        a += of->a[g];
        p += of->p[g];
        if (!is_ranged(type))
            continue;
        b += of->b[g];
        c += of->c[g];
        q += of->q[g];
    }
    const float det = a * c - b * b;
    if (is_ranged(type) && det > 0.0f) {
        const float d = (p * c - q * b) / det, dmin = (p * b - q * a) / det;
        if (d > 0.0f && dmin >= 0.0f) {
            scales->d = encode_half(d);
            scales->dmin = encode_half(dmin);
        }
    } else if (a > 0.0f) {
        scales->d = encode_half(p / a);
    }
}

/* S and M of all groups to the stored scales of their blocks. */
INLINE void put_scales(uint32_t type, const struct format *f, struct batch *b)
{
    struct encode_block room;
    room.type = f->type;
    for (uint32_t g = 0; g < b->groups; g += block_groups(type)) {
        memset(&room.scales, 0, sizeof room.scales);
        if (is_ranged(type))
            encode_put_ranged(&room, b->scale + g, b->minimum + g);
        else
            encode_put_signed(&room, b->scale + g);
        b->scales[g / block_groups(type)] = room.scales;
    }
}

/* The stored numbers between the blocks and the lanes. */
INLINE void numbers_to_lanes(uint32_t type, struct batch *b)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        const struct block_scales *s = &b->scales[g / block_groups(type)];
        b->scale[g] = (float)s->s[g % block_groups(type)];
        b->minimum[g] = (float)s->m[g % block_groups(type)];
    }
}

INLINE void numbers_to_blocks(uint32_t type, struct batch *b)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        struct block_scales *s = &b->scales[g / block_groups(type)];
        s->s[g % block_groups(type)] = (int8_t)b->scale[g];
        if (is_ranged(type))
            s->m[g % block_groups(type)] = (uint8_t)b->minimum[g];
    }
}

INLINE void refine(uint32_t type, const struct format *f, struct batch *b)
{
    struct products products;
    numbers_to_lanes(type, b);
    for (int pass = 0; pass <= ENCODE_PASSES; pass++) {
        spread_scales(type, b);
        refine_groups(type, f, b, &products);
        for (uint32_t g = 0; pass < ENCODE_PASSES && g < GROUPS; g += block_groups(type))
            refit_block(type, &products, g, &b->scales[g / block_groups(type)]);
    }
    numbers_to_blocks(type, b);
}

/* scalar_search_q3k.c; GROUPS is one block. */
INLINE void search_q3k(const struct format *f, struct batch *b)
{
    struct whole whole[VECTORS];
    VF above[VECTORS], below[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        take_whole(b, v, &whole[v]);
        vf_store(b->scale + v * VF_LANES, search_whole(&whole[v]));
    }
    put_scales(HAL_Q3_K, f, b);
    for (int v = 0; v < VECTORS; v++)
        vf_store(b->scale + v * VF_LANES, vf_from_8(b->scales[0].s + v * VF_LANES));
    for (int pass = 0; pass < ENCODE_Q3K_PASSES; pass++) {
        const VF d = vf_set(half_f16_to_f32(b->scales[0].d));
        for (int v = 0; v < VECTORS; v++)
            refine_whole(&whole[v], d, b->scale + v * VF_LANES, &above[v], &below[v]);
        const float divisor = lane_sum(below);
        if (pass == 0 && divisor > 0.0f)
            b->scales[0].d = encode_half(lane_sum(above) / divisor);
    }
    for (int g = 0; g < GROUPS; g++)
        b->scales[0].s[g] = (int8_t)b->scale[g];
}

INLINE void search(uint32_t type, const struct format *f, struct batch *b)
{
    if (type == HAL_Q3_K) {
        search_q3k(f, b);
        return;
    }
    for (int v = 0; v < VECTORS; v++) {
        VF scale, minimum = vf_zero();
        if (is_ranged(type)) {
            search_ranged(type, f, b, v, &scale, &minimum);
            if (block_groups(type) > 1)
                scale = vf_if(vf_greater(scale, vf_zero()), scale);
        } else {
            scale = search_signed(type, f, b, v);
        }
        vf_store(b->scale + v * VF_LANES, scale);
        vf_store(b->minimum + v * VF_LANES, minimum);
    }
    if (block_groups(type) > 1) {
        put_scales(type, f, b);
        if (type != HAL_NF4)
            refine(type, f, b);
        return;
    }
    for (uint32_t g = 0; g < GROUPS; g++) {
        b->scales[g].d = encode_half(b->scale[g]);
        b->scales[g].dmin = is_ranged(type) ? encode_half(-b->minimum[g]) : 0;
    }
}

INLINE void round_to_nearest(uint32_t type, const struct format *f, struct batch *b)
{
    for (int v = 0; v < VECTORS; v++) {
        VF scale, minimum = vf_zero();
        if (is_ranged(type)) {
            VF lo, hi;
            range_of(type, b, v, &lo, &hi);
            if (block_groups(type) > 1) {
                lo = vf_select(vf_greater(vf_zero(), lo), lo, vf_zero());
                hi = vf_select(vf_greater(hi, lo), hi, lo);
            }
            scale = vf_div(vf_sub(hi, lo), vf_set(f->high));
            minimum = vf_negate(lo);
        } else {
            const VF peak = peak_of(type, b, v);
            const int is_size = type == HAL_Q8_0 || type == HAL_NF4;
            scale = vf_div(is_size ? vf_abs(peak) : peak, vf_set(is_size ? 127.0f : f->low));
        }
        vf_store(b->scale + v * VF_LANES, scale);
        vf_store(b->minimum + v * VF_LANES, minimum);
    }
    if (block_groups(type) > 1) {
        put_scales(type, f, b);
        return;
    }
    for (uint32_t g = 0; g < GROUPS; g++) {
        b->scales[g].d = encode_half(b->scale[g]);
        b->scales[g].dmin = is_ranged(type) ? encode_half(-b->minimum[g]) : 0;
    }
}

/* Codes of all groups: [group][values]. */
INLINE void code_groups(uint32_t type, const struct format *f, const struct batch *b, uint8_t *code)
{
    _Alignas(64) float scale[GROUPS + BLOCK_GROUPS_MAX], minimum[GROUPS + BLOCK_GROUPS_MAX];
    const uint32_t n = group_values(type);
    memset(scale, 0, sizeof scale);
    memset(minimum, 0, sizeof minimum);
    for (uint32_t g = 0; g < b->groups; g += block_groups(type)) {
        if (block_multiply_scales(type, &b->scales[g / block_groups(type)], scale + g,
                                  minimum + g) != ERR_NONE)
            return; /* cannot be: the type has codes */
    }
    for (int v = 0; v < VECTORS; v++) {
        const VF inverse = inverse_of(vf_load(scale + v * VF_LANES));
        const VF shift = vf_load(minimum + v * VF_LANES);
        for (uint32_t i = 0; i < n; i += 4) {
            VI four = vi_zero();
            UNROLL for (int k = 0; k < 4; k++)
            {
                const VF x = vf_load(b->x + (i + (uint32_t)k) * GROUPS + v * VF_LANES);
                const VF u = vf_mul(vf_add(x, shift), inverse);
                const VI one =
                    is_table(type)
                        ? table_code(f, u)
                        : vi_add32(vi_from_f(level_of(type, f, u)), vi_set32(f->type->code_zero));
                four = vi_or(four, vi_shl32(vi_and(one, vi_set32(255)), 8 * k));
            }
            _Alignas(64) uint32_t lanes[VF_LANES];
            vi_store(lanes, four);
            for (int l = 0; l < VF_LANES; l++)
                memcpy(code + (uint32_t)(v * VF_LANES + l) * n + i, &lanes[l], 4);
        }
    }
}

/* w = h sqrt(spread + x^2) of one block, by scalar_search.c. */
static void weigh(const float *x, const float *importance, uint32_t n, float *w)
{
    const float spread = 2.0f * (lanes_dot(x, x, n) / (float)n);
    float inverse = 0.0f;
    if (importance != NULL) {
        const float mean = lanes_sum_of(importance, n) / (float)n;
        if (mean >= 0x1p-60f && mean <= 0x1p60f)
            inverse = 1.0f / mean;
    }
    for (uint32_t i = 0; i < n; i++) {
        float h = inverse == 0.0f ? 1.0f : importance[i] * inverse;
        h = h > 0x1p-14f ? h : 0x1p-14f;
        w[i] = h * __builtin_sqrtf(spread + x[i] * x[i]);
    }
}

/* [GROUPS][n] to [n][GROUPS] */
INLINE void to_lanes(uint32_t type, const float *rows, float *lanes)
{
    const uint32_t n = group_values(type);
    for (uint32_t i = 0; i < n; i += VF_LANES) {
        for (uint32_t g = 0; g < GROUPS; g += VF_LANES) {
            VF square[VF_LANES];
            UNROLL for (uint32_t k = 0; k < VF_LANES; k++)
                square[k] = vf_load(rows + (g + k) * n + i);
            vf_transpose(square);
            UNROLL for (uint32_t k = 0; k < VF_LANES; k++)
                vf_store(lanes + (i + k) * GROUPS + g, square[k]);
        }
    }
}

/* Blocks of one row from `column` on: as many as make 16 groups, or what is left. */
INLINE void encode_batch(uint32_t type, const struct format *f, const float *x,
                         const float *importance, uint32_t left, uint8_t *out)
{
    struct batch b;
    _Alignas(64) float rows[BATCH_VALUES], weights[BATCH_VALUES];
    uint8_t code[BATCH_VALUES];
    const uint32_t n = group_values(type), all = GROUPS * n;
    const uint32_t values = left < all ? left : all, block_values = n * block_groups(type);
    b.groups = values / n;
    memset(b.scales, 0, sizeof b.scales);
    for (uint32_t i = 0; i < values; i++) {
        const uint32_t bits = half_to_bits(x[i]);
        rows[i] = (bits & 0x7fffffffu) < 0x7f800000u ? x[i] : 0.0f;
    }
    memset(rows + values, 0, (all - values) * sizeof *rows);
    to_lanes(type, rows, b.x);
    if (f->job->method == HAL_SEARCH) {
        memset(weights + values, 0, (all - values) * sizeof *weights);
        for (uint32_t i = 0; i < values; i += block_values)
            weigh(rows + i, importance == NULL ? NULL : importance + i, block_values, weights + i);
        to_lanes(type, weights, b.w);
        search(type, f, &b);
    } else {
        round_to_nearest(type, f, &b);
    }
    code_groups(type, f, &b, code);
    for (uint32_t i = 0; i < values; i += block_values, out += f->type->bytes) {
        if (block_put_scales(type, &b.scales[i / block_values], out) != ERR_NONE ||
            block_put_codes(type, code + i, out) != ERR_NONE)
            return; /* cannot be: the type has codes */
    }
}

INLINE void encode_type(uint32_t type, const struct vnni_encoding *job, uint32_t row)
{
    struct format f = {.type = block_type(type), .job = job};
    const int8_t *table = block_table(type);
    f.low = type == HAL_Q8_0 ? -127.0f : block_level(type, 0);
    f.high = block_level(type, f.type->codes - 1);
    if (is_table(type)) {
        _Alignas(64) float level[16], middle[16];
        for (int k = 0; k < 16; k++) {
            level[k] = (float)table[k];
            middle[k] = k < 15 ? (float)(table[k] + table[k + 1]) * 0.5f : 0.0f;
        }
        for (int k = 0; k < 15; k++)
            f.middle[k] = vf_set(middle[k]);
        for (uint32_t h = 0; h < 16 / VF_LANES; h++) {
            f.level[h] = vf_load(level + h * VF_LANES);
            f.entry[h] = vf_load(middle + h * VF_LANES);
        }
    }
    const float *x = job->x + (size_t)row * job->cols;
    uint8_t *out = job->out + row * job->row_bytes;
    const uint32_t step = GROUPS * group_values(type);
    for (uint32_t i = 0; i < job->cols; i += step, out += step / f.type->values * f.type->bytes)
        encode_batch(type, &f, x + i, job->importance == NULL ? NULL : job->importance + i,
                     job->cols - i, out);
}

/* One function to a type, for the compiler's sake. */
#define ENCODE(t)                                                                                  \
    static __attribute__((noinline)) void encode_##t(const struct vnni_encoding *job, uint32_t row) \
    {                                                                                              \
        encode_type(HAL_##t, job, row);                                                            \
    }
#define CASE(t)                                                                                    \
    case HAL_##t: encode_##t(job, row); break;
#define FOR_EACH_TYPE(X)                                                                           \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL)      \
    X(IQ4_XS) X(NF4)

FOR_EACH_TYPE(ENCODE)

void VNNI_BASE_KERNEL(encode)(const struct vnni_encoding *job, uint32_t row)
{
    switch (job->type) { FOR_EACH_TYPE(CASE) }
}

#endif
