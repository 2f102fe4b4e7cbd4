
static uint32_t rotated(uint32_t v, unsigned by)
{
    return v >> by | v << (32 - by);
}

/* Add 64 bytes to a SHA-256 (FIPS 180-4). */
static void digest(uint32_t hash[8], const unsigned char block[64])
{
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    uint32_t w[64], s[8];
    for (int t = 0; t < 16; t++) {
        const unsigned char *b = block + 4 * t;
        w[t] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int t = 16; t < 64; t++) {
        const uint32_t u = w[t - 15], v = w[t - 2];
        w[t] = w[t - 16] + (rotated(u, 7) ^ rotated(u, 18) ^ u >> 3) + w[t - 7] + (rotated(v, 17) ^ rotated(v, 19) ^ v >> 10);
    }
    memcpy(s, hash, sizeof s);
    for (int t = 0; t < 64; t++) {
        const uint32_t a = s[0], e = s[4];
        const uint32_t first = s[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + K[t] + w[t];
        const uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += first;
        s[0] = first + second;
    }
    for (int t = 0; t < 8; t++) {
        hash[t] += s[t];
    }
}

int @P@_load(const char *path)
{
    static const uint32_t expected[8] = {@hash@};
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char block[64];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return 1;
    }
    loaded = 0;
    for (size_t start = 0; start < WEIGHTS; start += sizeof block / sizeof(real)) {
        if (fread(block, 1, sizeof block, file) != sizeof block) {
            fclose(file);
            return 2;
        }
        digest(hash, block);
        for (size_t k = 0; k < sizeof block / sizeof(real); k++) { /* little-endian, whatever this machine is */
            @bits@ bits = 0;
            for (size_t byte = sizeof bits; byte > 0; byte--) {
                bits = bits << 8 | block[k * sizeof bits + byte - 1];
            }
            memcpy(weights + start + k, &bits, sizeof bits);
        }
    }
    const int more = fgetc(file);
    fclose(file);
    if (more != EOF) {
        return 2;
    }
    const uint64_t length = (uint64_t)WEIGHTS * sizeof(real) * 8;
    memset(block, 0, sizeof block);
    block[0] = 0x80;
    for (int byte = 0; byte < 8; byte++) {
        block[63 - byte] = (unsigned char)(length >> 8 * byte & 0xff);
    }
    digest(hash, block);
    if (memcmp(hash, expected, sizeof hash) != 0) {
        return 3;
    }
    loaded = 1;
    return 0;
}
