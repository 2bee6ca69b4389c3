// Included ahead of every kernel file in place of CUDA's headers.
//
// Kernel files are compiled inside an unnamed namespace (see build.rs), so every
// standard header that one of them may include has to come in here, outside.
#pragma once

#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EOSIN_EMULATOR 1

#include "emulator.h"
#include "language.h"
#include "vector.h"
#include "intrinsics.h"
#include "half.h"
#include "collectives.h"
#include "ptx.h"
