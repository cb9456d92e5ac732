/* Asks LLVM's disassembler which AArch64 instruction words a CPU has. Linked with libLLVM, whose C interface is
 * stable; the prototypes stand here, so that no header package is needed.
 *
 *   llvm_words CPU FEATURES words    stdin: 32-bit words         stdout: a byte for each, 1 where LLVM knows the word
 *   llvm_words CPU FEATURES text     stdin: 32-bit words         stdout: a line for each, empty where LLVM does not
 *   llvm_words CPU FEATURES low      stdin: 22-bit prefixes      stdout: 128 bytes for each, a bit for each low part
 *   llvm_words CPU FEATURES sweep    stdin: up to 8 low parts    stdout: a byte for each of the 2^22 prefixes, with a
 *                                    (10 bits, as words)                 bit for each of the low parts
 *
 * Integers are little-endian, as on the x86-64 and aarch64 machines where this runs.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef void *Disassembler;
void LLVMInitializeAArch64TargetInfo(void);
void LLVMInitializeAArch64TargetMC(void);
void LLVMInitializeAArch64Disassembler(void);
Disassembler LLVMCreateDisasmCPUFeatures(const char *triple, const char *cpu, const char *features, void *info,
                                         int tag, void *get_info, void *look_up);
size_t LLVMDisasmInstruction(Disassembler, uint8_t *bytes, uint64_t size, uint64_t address, char *text,
                             size_t text_size);

enum { LOW_BITS = 10, PREFIXES = 1 << 22, SAMPLES = 8 };
static Disassembler llvm;
static char text[256];

static int known(uint32_t word) {
  return LLVMDisasmInstruction(llvm, (uint8_t *)&word, 4, 0, text, sizeof text) == 4;
}

static void sweep(void) {
  static uint8_t answers[PREFIXES];
  uint32_t low[SAMPLES];
  size_t count = fread(low, sizeof low[0], SAMPLES, stdin);
  for (uint32_t prefix = 0; prefix < PREFIXES; prefix++)
    for (size_t i = 0; i < count; i++) answers[prefix] |= (uint8_t)(known(prefix << LOW_BITS | low[i]) << i);
  fwrite(answers, 1, sizeof answers, stdout);
}

int main(int argc, char **argv) {
  uint32_t word;
  if (argc != 4) return 2;
  LLVMInitializeAArch64TargetInfo();
  LLVMInitializeAArch64TargetMC();
  LLVMInitializeAArch64Disassembler();
  llvm = LLVMCreateDisasmCPUFeatures("aarch64-linux-gnu", argv[1], argv[2], NULL, 0, NULL, NULL);
  if (llvm == NULL) return 1;
  if (strcmp(argv[3], "sweep") == 0) {
    sweep();
    return 0;
  }
  while (fread(&word, sizeof word, 1, stdin) == 1) {
    if (strcmp(argv[3], "words") == 0) {
      putchar(known(word));
    } else if (strcmp(argv[3], "text") == 0) {
      puts(known(word) ? text : "");
    } else {
      uint8_t answers[128] = {0};
      for (uint32_t low = 0; low < 1 << LOW_BITS; low++)
        answers[low >> 3] |= (uint8_t)(known(word << LOW_BITS | low) << (low & 7));
      fwrite(answers, 1, sizeof answers, stdout);
    }
  }
  return 0;
}
