// The size of the machine's vector registers.
#pragma once

namespace fedrecon {

#if defined(FEDRECON_REGISTER_BYTES)
constexpr int register_bytes = FEDRECON_REGISTER_BYTES;
#elif defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

}  // namespace fedrecon
