/* AMX: an instruction multiplies sixteen rows of 64 bytes with the weights of sixteen outputs. A panel has these as it takes
   them, so weights are packed as for all others. */
#include "kernels.h"

/* Older compilers' assemblers do not know it; the library goes without these kernels then. */
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#include "x86.h"

#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni" WIDEST)))
/* Blocks are four times others': with 128 KB, weights come so often from the third cache that tiles wait for them. */
enum { WIDTH = 16, ROWS = 32, COLUMNS = 2, TOGETHER = 2, BLOCK_BYTES = 512 * 1024, MOVED = 0, EXCESS = 128 };
#include "linear_avx512.h"

/* The rows, groups and outputs of a tile. */
enum { SIDE = 16, LINE = SIDE * GROUP, TILE_BYTES = SIDE * LINE };

/* Instructions name tiles by literals: 0 to 3 have the sums, 4 to 7 rows of inputs and panels of weights. */
#define LOAD(tile, from, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(stride) : "memory")
#define STORE(tile, to, stride) __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(stride) : "memory")
#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile :)
#define ADD(sums, inputs, weights) __asm__ volatile("tdpbusd %%tmm" #weights ", %%tmm" #inputs ", %%tmm" #sums :)

/* What `ldtilecfg` takes; of palette 0 where tiles have no shape. */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Shapes;

/* The rows of a block, of which a tile has room for half. */
typedef struct {
    size_t upper, lower;
} Halves;

/* The first of some panels, and how many bytes each is from the one before. */
typedef struct {
    const int8_t *first;
    size_t next, groups;
} Weights;

/* Sums of two panels with the upper rows, with the lower ones, and the inputs of both. What is left is for weights. */
static void shape_tiles(Halves halves) {
    const uint8_t upper = (uint8_t)halves.upper, lower = (uint8_t)halves.lower;
    Shapes shapes = {.palette = 1, .rows = {upper, upper, lower, lower, upper, lower, SIDE, SIDE}};
    for (size_t tile = 0; tile < 8; tile++) shapes.row_bytes[tile] = LINE;
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}

static Shapes shapes_before(void) {
    Shapes before;
    __asm__ volatile("sttilecfg %0" : "=m"(before));
    return before;
}

/* Others on this thread may have shaped tiles once for all, though by the ABI any call may undo it. */
static void restore_shapes(Shapes before) {
    if (before.palette) __asm__ volatile("ldtilecfg %0" : : "m"(before));
    else __asm__ volatile("tilerelease");
}

INLINED void load_square(const uint8_t *upper, const uint8_t *lower, size_t stride, const int8_t *left, const int8_t *right) {
    LOAD(4, upper, stride);
    LOAD(6, left, (size_t)LINE);
    LOAD(5, lower, stride);
    LOAD(7, right, (size_t)LINE);
}

/* Add the products of the tiles that are loaded, and load the next ones where there are more: each as soon as it may be. Loads
   and products that take turns as a whole take 1.14 times as long. */
INLINED void add_square(const int more, const uint8_t *upper, const uint8_t *lower, size_t stride, const int8_t *left,
                        const int8_t *right) {
    ADD(0, 4, 6);
    ADD(2, 5, 6);
    if (more) LOAD(6, left + TILE_BYTES, (size_t)LINE);
    ADD(1, 4, 7);
    if (more) LOAD(4, upper + LINE, stride);
    ADD(3, 5, 7);
    if (!more) return;
    LOAD(5, lower + LINE, stride);
    LOAD(7, right + TILE_BYTES, (size_t)LINE);
}

/* Sums of two halves of rows with two panels, of which `columns` are wanted. Meanwhile the lines of memory that outputs go to are
   fetched: layers whose outputs leave the second cache take 0.5 to 0.9 of the time. */
static void multiply_square(Halves halves, const uint8_t *x, size_t stride, Weights weights, size_t columns, Integers *sums,
                            const float *y, size_t next_y) {
    const uint8_t *lower = x + halves.upper * stride;
    const int8_t *left = weights.first, *right = left + weights.next;
    const size_t rows = halves.upper + halves.lower, at_once = (rows * SIDE + weights.groups - 1) / weights.groups;
    size_t groups = weights.groups, fetched = 0;
    ZERO(0);
    ZERO(1);
    ZERO(2);
    ZERO(3);
    if (groups >= SIDE) load_square(x, lower, stride, left, right);
    for (; groups >= SIDE; groups -= SIDE, x += LINE, lower += LINE, left += TILE_BYTES, right += TILE_BYTES) {
        for (const size_t until = fetched + at_once < rows ? fetched + at_once : rows; fetched < until; fetched++)
            for (size_t c = 0; c < columns; c++) __builtin_prefetch(y + fetched * next_y + c * WIDTH, 1, 2);
        if (groups >= 2 * SIDE) add_square(1, x, lower, stride, left, right);
        else add_square(0, x, lower, stride, left, right);
    }
    if (groups) {
        int8_t last[2][TILE_BYTES] = {{0}};
        memcpy(last[0], left, groups * LINE);
        memcpy(last[1], right, groups * LINE);
        load_square(x, lower, stride, last[0], last[1]);
        add_square(0, x, lower, stride, last[0], last[1]);
    }
    const size_t line = columns * sizeof *sums;
    STORE(0, sums, line);
    STORE(2, sums + halves.upper * columns, line);
    if (columns == 1) return;
    STORE(1, sums + 1, line);
    STORE(3, sums + halves.upper * columns + 1, line);
}

TARGET static void multiply(const void *rounded, size_t rows, const Layer *layer, size_t first, size_t last, float *y) {
    const size_t groups = groups_of(layer->inputs), panel_bytes = groups * PANEL * GROUP, stride = row_bytes(layer->inputs);
    /* A question waits for weights. Tiles make it no faster, and 8 tokens slower by 5 to 12 %. */
    if (rows <= SIDE) {
        avx512_vnni_kernels.multiply(rounded, rows, layer, first, last, y);
        return;
    }
    /* All blocks have one height, for shaping tiles takes as long as a dozen products. So the last block may do rows again. */
    const size_t blocks = (rows + ROWS - 1) / ROWS, high = (rows + blocks - 1) / blocks;
    const Halves halves = {high - high / 2, high / 2};
    Integers sums[TOGETHER][ROWS * COLUMNS];
    const Shapes before = shapes_before();
    shape_tiles(halves);
    for (size_t panel = first, taken; panel < last; panel += taken) {
        taken = last - panel >= TOGETHER * PANELS ? TOGETHER * PANELS : 1;
        /* A panel alone stands in for those beside it. */
        const size_t columns = taken > 1 ? COLUMNS : 1, next = taken > 1 ? panel_bytes : 0;
        const int8_t *weights = layer->weights + panel * panel_bytes;
        for (size_t block = 0; block < blocks; block++) {
            const size_t top = (block + 1) * high <= rows ? block * high : rows - high;
            const uint8_t *x = (const uint8_t *)rounded + top * stride;
            float *out = y + top * layer->outputs;
            for (size_t p = 0; p < taken; p += PANELS)
                multiply_square(halves, x, stride, (Weights){weights + p * panel_bytes, next, groups}, columns, sums[p / PANELS],
                                out + (panel + p) * PANEL, layer->outputs);
            if (taken > 1) finish(TOGETHER * COLUMNS, high, x, stride, layer, panel, sums, out);
            else finish(OF_PANEL, high, x, stride, layer, panel, sums, out);
        }
    }
    restore_shapes(before);
}

enum { HAS_TILES = 1 << 24, HAS_PRODUCTS_OF_BYTES = 1 << 25, KEEPS_TILES = 3 << 17 };
/* Linux, 5.16 or later, keeps tiles for processes that ask. Their names in its headers: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA. */
static int allowed(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static int fits(void) {
    const unsigned both = HAS_TILES | HAS_PRODUCTS_OF_BYTES;
    return avx512_vnni_kernels.fits() && system_keeps(KEEPS_TILES) && (features(7, 0).d & both) == both && allowed();
}

const Kernels amx_int8_kernels = {.name = "amx_int8", OF_BYTES, .attention = &avx512_attention};
#else
const Kernels amx_int8_kernels = {.name = "amx_int8"};
#endif
