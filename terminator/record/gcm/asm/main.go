// SPDX-License-Identifier: Apache-2.0

// Command asm writes the kernels of package gcm for amd64: AES-GCM with VAES,
// VPCLMULQDQ and AVX-512, 16 blocks at a time. It is a module of its own, so that
// nothing else depends on avo.
//
// AES-CTR is ordinary: four registers of four counters each go through the rounds
// together. A counter block is kept with its bytes reversed, so that its counter
// is a number that VPADDD counts, modulo 2^32 as SP 800-38D section 6.2 wants.
//
// GHASH is arithmetic of polynomials modulo x^128 + x^7 + x^2 + x + 1, whose bits
// GCM has in reversed order within each byte. With the bytes reversed as well, a
// block is a number whose highest bit is the coefficient of x^0. The carry-less
// product of two such numbers has 255 bits, and as a number of 256 bits it is theirs
// times x. So the powers of H in the table are divided by x. 16 blocks are multiplied
// by H^16 to H^1, the products are added, and the sum is reduced once: its lower half
// is what has x^128 and more (Gueron and Kounavis, "Intel Carry-Less Multiplication
// Instruction and its Usage for Computing the GCM Mode").
//
// No branch and no address depends on anything but lengths and the key's size.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The table of a key, which package gcm allocates.
const (
	powersAt = 0          // H^16 to H^1, 16 bytes each
	keysAt   = 16 * block // 11 or 15 round keys
	block    = 16
	vector   = 4 * block
	stride   = 4 * vector // of the loop
)

// Constants in memory.
var (
	reverse Mem // VPSHUFB: reverses the bytes of a block
	poly    Mem // x^127 + x^126 + x^121 without the x^128 and the 1, reduction's factor
	byX     Mem // what the bit that a division by x carries out stands for
	first   Mem // counters of the first four blocks
	four    Mem // the number 4 in each block
	tagOne  Mem // the counter of the tag's block
)

func main() {
	reverse = constant("reverse", 0x08090a0b0c0d0e0f, 0x0001020304050607)
	poly = constant("poly", 0xc2<<56, 0xc2<<56)
	byX = constant("byX", 1, 0xc2<<56)
	first = constant("first", 2, 0, 3, 0, 4, 0, 5, 0)
	four = constant("four", 4, 0)
	tagOne = constant("tagOne", 1, 0)
	expand()
	message("seal", true)
	message("open", false)
	Generate()
}

func constant(name string, words ...uint64) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i, w := range words {
		DATA(8*i, U64(w))
	}
	return m
}

// at is memory at an offset.
func at(base Register, offset int) Mem { return Mem{Base: base, Disp: offset} }

// x, y and z are a vector register as one of 16, 32 and 64 bytes. An instruction
// that writes the first two clears the rest.
func x(r Register) Register { return r.(Vec).AsX() }
func y(r Register) Register { return r.(Vec).AsY() }
func z(r Register) Register { return r.(Vec).AsZ() }
