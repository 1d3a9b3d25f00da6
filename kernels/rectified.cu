// Random convolution features in one pass: for every filter the sums of ReLU(c) and ReLU(-c) over a fragment, where
// c = filter * x + bias (3 x 3, no padding).  The map of c is never stored, and every sum is taken in one fixed order,
// so that a fragment's values depend on nothing but its pixels.  See rectified.py.

// x: [n, size, size, room] float32, of which `channels` count; weights: [3, 3, channels, filters];
// partial: [n, strips, 2, filters].  One warp: one fragment (grid.x), one strip of `strip` rows (grid.y), 128 filters
// (grid.z), 4 of them a lane, 16 positions at a time.
extern "C" __global__ void rectified_strips(
    const float *x, const float *weights, float bias, int size, int channels, int room, int filters, int strip,
    float *partial) {
  const int columns = size - 2, rows = size - 2;
  const int begin = blockIdx.y * strip, end = begin + strip < rows ? begin + strip : rows;
  const float *own = weights + blockIdx.z * 128 + threadIdx.x;
  const float *image = x + (long long)blockIdx.x * size * size * room;
  float strip_sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  for (int row = begin; row < end; ++row) {
    float row_sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int first = 0; first < columns; first += 16) {
      float c[4][16];
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int p = 0; p < 16; ++p) c[k][p] = bias;
      for (int down = 0; down < 3; ++down) {
        const float *line = image + (long long)(row + down) * size * room;
        for (int channel = 0; channel < channels; ++channel) {
          float v[18];
#pragma unroll
          for (int p = 0; p < 18; ++p) {
            int column = first + p < size ? first + p : size - 1;
            v[p] = line[column * room + channel];
          }
#pragma unroll
          for (int right = 0; right < 3; ++right) {
            const float *tap = own + (long long)((down * 3 + right) * channels + channel) * filters;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              float weight = tap[32 * k];
#pragma unroll
              for (int p = 0; p < 16; ++p) c[k][p] = __fmaf_rn(weight, v[p + right], c[k][p]);
            }
          }
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float above = 0.0f, below = 0.0f;
#pragma unroll
        for (int p = 0; p < 16; ++p) {
          if (first + p < columns) {
            above = __fadd_rn(above, c[k][p] < 0.0f ? 0.0f : c[k][p]);  // NaN stays NaN
            below = __fadd_rn(below, c[k][p] > 0.0f ? 0.0f : -c[k][p]);
          }
        }
        row_sums[k] = __fadd_rn(row_sums[k], above);
        row_sums[4 + k] = __fadd_rn(row_sums[4 + k], below);
      }
    }
    for (int k = 0; k < 8; ++k) strip_sums[k] = __fadd_rn(strip_sums[k], row_sums[k]);
  }
  float *target = partial + ((long long)blockIdx.x * gridDim.y + blockIdx.y) * 2 * filters;
  for (int k = 0; k < 4; ++k) {
    int filter = blockIdx.z * 128 + 32 * k + threadIdx.x;
    target[filter] = strip_sums[k];
    target[filters + filter] = strip_sums[4 + k];
  }
}

// means: [n, 2 * filters] from partial [n, strips, 2 * filters]; one thread a value: grid.x: fragment, grid.y: block.
extern "C" __global__ void strip_means(const float *partial, int strips, int values, float positions, float *means) {
  int value = blockIdx.y * blockDim.x + threadIdx.x;
  if (value >= values) return;
  const float *first = partial + (long long)blockIdx.x * strips * values + value;
  float sum = 0.0f;
  for (int strip = 0; strip < strips; ++strip) sum = __fadd_rn(sum, first[(long long)strip * values]);
  means[(long long)blockIdx.x * values + value] = __fdiv_rn(sum, positions);
}
