/* What a core can do at most: loops over registers, nothing in memory. */
#include <immintrin.h>

#define TWENTY_FOUR "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"
#define TWELVE "0,1,2,3,4,5,6,7,8,9,10,11"
#define WRITES                                                                                                        \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
        "xmm14", "xmm15"

/* 24 products of 64 bytes a round. */
void products_of_bytes(long rounds) {
    __asm__ volatile("1:\n.irp r," TWENTY_FOUR "\nvpdpbusd %%zmm31, %%zmm30, %%zmm\\r\n.endr\ndec %0\njnz 1b"
                     : "+r"(rounds)
                     :
                     : WRITES, "cc");
}

/* 12 products of 16 integers of 16 bits a round. */
void products_of_16_bits(long rounds) {
    __asm__ volatile("1:\n.irp r," TWELVE
                     "\nvpmaddwd %%ymm14, %%ymm15, %%ymm13\nvpaddd %%ymm13, %%ymm\\r, %%ymm\\r\n.endr\ndec %0\njnz 1b"
                     : "+r"(rounds)
                     :
                     : WRITES, "cc");
}

/* 24 products of 32 integers of 16 bits a round. */
void products_of_pairs(long rounds) {
    __asm__ volatile("1:\n.irp r," TWENTY_FOUR "\nvpdpwssd %%zmm31, %%zmm30, %%zmm\\r\n.endr\ndec %0\njnz 1b"
                     : "+r"(rounds)
                     :
                     : WRITES, "cc");
}

/* 4 products of tiles a round, of 16 rows of 64 bytes with 16 outputs each. The process must be allowed to use tiles, as it is
   once paritas's library is loaded. Tiles are loaded first: those that never were take half of the time. */
void products_of_tiles(long rounds) {
    static const struct {
        unsigned char palette, start, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    unsigned char bytes[1024];
    for (int i = 0; i < 1024; i++) bytes[i] = (unsigned char)(i * 37 + 1);
    __asm__ volatile("ldtilecfg %1\n"
                     ".irp r,4,5,6,7\ntileloadd (%2,%3,1), %%tmm\\r\n.endr\n"
                     "1:\ntdpbusd %%tmm6, %%tmm4, %%tmm0\ntdpbusd %%tmm7, %%tmm4, %%tmm1\n"
                     "tdpbusd %%tmm6, %%tmm5, %%tmm2\ntdpbusd %%tmm7, %%tmm5, %%tmm3\ndec %0\njnz 1b\ntilerelease"
                     : "+r"(rounds)
                     : "m"(shapes), "r"(bytes), "r"(64L)
                     : "memory", "cc");
}
