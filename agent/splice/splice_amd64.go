// SPDX-License-Identifier: Apache-2.0

package splice

// spliceCompat is the number of splice(2) for 32-bit programs.
const spliceCompat = 313
