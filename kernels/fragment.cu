// Fragment and normalise: see fragment_numpy.py for what it computes, fragment_nvrtc.py and fragment_cupy.py for who
// launches it.
//
// One block per row of a fragment (grid.x: fragment, grid.y: row); its threads share the columns and loop over the bands.
// The intrinsics round to nearest and are never contracted into fused multiply-adds, so that every float32 operation is
// the definition's; only log10 is the device's own.  NaN and infinities behave as the comparisons are written.

__device__ float unit_of(float value) { return value < 0.0f ? 0.0f : (value > 1.0f ? 1.0f : value); }

__device__ float rgb_of(float level, float mean, float deviation) {
  float share = unit_of(__fdiv_rn(__fmul_rn(2.5f, level), 10000.0f));
  return __fdiv_rn(__fsub_rn(share, mean), deviation);
}

__device__ float standard_of(float level, float mean, float deviation) {
  return __fdiv_rn(__fsub_rn(level, mean), deviation);
}

__device__ float decibel_of(float level) {
  double power = level;
  return (float)(10.0 * log10(power > 1e-10 ? power : 1e-10));
}

// rule: 0 reflectance, 1 rgb, 2 decibel, 3 standard, 4 standard-valid, 5 decibel-standard
__device__ float normalise_of(float pixel, int rule, float low, float scale, float offset, float floor, float nodata) {
  float level = __fsub_rn(pixel, offset);
  if (level < floor) level = floor;
  if (rule == 0) return __fdiv_rn(level, 10000.0f);
  if (rule == 1) return rgb_of(level, low, scale);
  const float infinity = __int_as_float(0x7F800000);
  if (pixel == nodata || (rule == 4 && level == 0.0f)) return 0.0f;
  if (rule == 3 || rule == 4) return level > -infinity && level < infinity ? standard_of(level, low, scale) : 0.0f;
  if (rule == 2) return level >= 0.0f ? unit_of(standard_of(decibel_of(level), low, scale)) : 0.0f;  // not of NaN
  return level > 0.0f && level < infinity ? standard_of(decibel_of(level), low, scale) : 0.0f;
}

// Bits of float16, rounded to nearest even.
__device__ unsigned short half_of(unsigned int bits) {
  unsigned int sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x477FF000u) {  // rounds to 65536 or more: infinity, or NaN
    return magnitude > 0x7F800000u ? 0x7E00u : sign | 0x7C00u;
  }
  if (magnitude >= 0x38800000u) {
    return sign | ((magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13);
  }
  if (magnitude <= 0x33000000u) return sign;  // at most half of the smallest subnormal
  unsigned int shift = 126u - (magnitude >> 23);
  unsigned int mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  return sign | ((mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift);
}

// Bits of bfloat16, rounded to nearest even.
__device__ unsigned short bfloat16_of(unsigned int bits) {
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u;
  return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}

// Most factors are 1 or 2, and a division takes longer than all else of a pixel.
__device__ unsigned int quotient(unsigned int value, unsigned int divisor) {
  if (divisor == 1u) return value;
  if (divisor == 2u) return value >> 1;
  return value / divisor;
}

// encoding: 0 float32, 1 float16, 2 bfloat16
__device__ unsigned int encoded(float value, int encoding) {
  unsigned int bits = __float_as_uint(value);
  return encoding == 0 ? bits : (encoding == 1 ? half_of(bits) : bfloat16_of(bits));
}

// Eight channels of a pixel at once; out lies on a multiple of 16 bytes, target is a multiple of 8 elements.
__device__ void store(void *out, long long target, const unsigned int *bits, int encoding) {
  if (encoding == 0) {
    uint4 *place = (uint4 *)((unsigned int *)out + target);
    place[0] = make_uint4(bits[0], bits[1], bits[2], bits[3]);
    place[1] = make_uint4(bits[4], bits[5], bits[6], bits[7]);
  } else {
    *(uint4 *)((unsigned short *)out + target) = make_uint4(
        bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16, bits[6] | bits[7] << 16);
  }
}

// planes: [cells, bands, 4] = first element, row stride, row factor, column factor; fragments: [n, 3] = cell, row, col;
// low, scale: [bands]; by_*: strides of out in elements.  room: channels that a pixel of out has room for where they lie
// side by side and are a multiple of 8 (those after the bands become 0), else 0.
extern "C" __global__ void fragment(
    const void *raw, int raw_is_uint16, const long long *planes, const int *fragments, const int *subtract,
    const double *nodata, const float *low, const float *scale, int rule, int encoding, int bands, int size, void *out,
    long long by_fragment, long long by_band, long long by_row, long long by_col, int room) {
  const int *place = fragments + 3LL * blockIdx.x;
  int cell = place[0], row = place[1], col = place[2];
  const long long *cell_planes = planes + 4LL * bands * cell;
  float offset = raw_is_uint16 ? (float)subtract[cell] : 0.0f;
  float floor = raw_is_uint16 ? 0.0f : -__int_as_float(0x7F800000);
  float nothing = (float)nodata[cell];
  for (int r = blockIdx.y; r < size; r += gridDim.y) {
    for (int c = threadIdx.x; c < size; c += blockDim.x) {
      long long pixel_of_out = blockIdx.x * by_fragment + r * by_row + c * by_col;
      unsigned int bits[8];
      for (int first = 0; first < (room ? room : bands); first += 8) {
        for (int k = 0; k < 8; ++k) {
          int band = first + k;
          bits[k] = 0;
          if (band >= bands) continue;
          const long long *plane = cell_planes + 4LL * band;
          long long source = plane[0] + quotient(row + r, plane[2]) * plane[1] + quotient(col + c, plane[3]);
          float pixel = raw_is_uint16 ? (float)((const unsigned short *)raw)[source] : ((const float *)raw)[source];
          bits[k] = encoded(normalise_of(pixel, rule, low[band], scale[band], offset, floor, nothing), encoding);
          if (room) continue;
          long long target = pixel_of_out + band * by_band;
          if (encoding == 0) ((unsigned int *)out)[target] = bits[k];
          else ((unsigned short *)out)[target] = bits[k];
        }
        if (room) store(out, pixel_of_out + first, bits, encoding);
      }
    }
  }
}
