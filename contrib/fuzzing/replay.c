/* Gives the files that are named to a target in C, without libFuzzer: for any compiler. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 1 << 20 };

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *data = malloc(MOST_BYTES), *whole;
        size_t size;

        if (!file || !data) {
            perror(argv[i]);
            return 2;
        }
        size = fread(data, 1, MOST_BYTES, file);
        fclose(file);
        /* No larger than the input, so that what reads past it is noticed. */
        whole = realloc(data, size + !size);
        printf("%s\n", argv[i]);
        fflush(stdout);
        LLVMFuzzerTestOneInput(whole, size);
        free(whole);
    }
    return 0;
}
