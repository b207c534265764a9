// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// expand writes the function that makes the table of a key: AES's key schedule
// (FIPS 197 section 5.2), then H, then its powers.
func expand() {
	TEXT("expand", NOSPLIT, "func(table *[496]byte, key *byte, rounds int)")
	Pragma("noescape")
	Doc("expand makes the table of a key of 16 bytes (10 rounds) or 32 bytes (14 rounds).")
	table := Load(Param("table"), GP64())
	key := Load(Param("key"), GP64())
	rounds := Load(Param("rounds"), GP64())
	roundKey := func(i int) Mem { return at(table, keysAt+i*block) }

	CMPQ(rounds, Imm(10))
	JNE(LabelRef("long"))
	k, t := X0, X1
	VMOVDQU(at(key, 0), k)
	VMOVDQU(k, roundKey(0))
	rcon := uint64(1)
	for i := 1; i <= 10; i++ {
		VAESKEYGENASSIST(Imm(rcon), k, t)
		nextKey(k, t, 0xff)
		VMOVDQU(k, roundKey(i))
		rcon = double(rcon)
	}
	encryptZero(roundKey, 10)
	JMP(LabelRef("powers"))

	Label("long")
	even, odd := X0, X2
	VMOVDQU(at(key, 0), even)
	VMOVDQU(at(key, block), odd)
	VMOVDQU(even, roundKey(0))
	VMOVDQU(odd, roundKey(1))
	rcon = 1
	for i := 2; i <= 14; i++ {
		if i%2 == 0 {
			VAESKEYGENASSIST(Imm(rcon), odd, t)
			nextKey(even, t, 0xff)
			VMOVDQU(even, roundKey(i))
			rcon = double(rcon)
		} else {
			VAESKEYGENASSIST(Imm(0), even, t)
			nextKey(odd, t, 0xaa)
			VMOVDQU(odd, roundKey(i))
		}
	}
	encryptZero(roundKey, 14)

	Label("powers")
	// H is in X0. It is divided by x, which is a shift to the left here.
	h := X0
	VPSHUFB(reverse, h, h)
	VPSHUFD(Imm(0xff), h, X1)
	VPSRAD(Imm(31), X1, X1)
	VPAND(byX, X1, X1)
	VPSRLQ(Imm(63), h, X2)
	VPSLLDQ(Imm(8), X2, X2)
	VPADDQ(h, h, h)
	VPXOR(X2, h, h)
	VPXOR(X1, h, h)

	power := func(n int) Mem { return at(table, powersAt+(16-n)*block) }
	VBROADCASTI32X4(poly, Z7)
	VMOVDQU(h, power(1))
	VMOVDQA(h, X1)
	multiply(X0, X1, X7, [...]VecPhysical{X2, X3, X4, X5})
	VMOVDQU(X4, power(2))
	VINSERTI128(Imm(1), h, Y4, Y0) // H^2, H^1
	VBROADCASTI128(power(2), Y1)
	multiply(Y0, Y1, Y7, [...]VecPhysical{Y2, Y3, Y4, Y5})
	VMOVDQU(Y4, power(4))
	VINSERTI64X4(Imm(1), Y0, Z4, Z0) // H^4 to H^1
	VBROADCASTI32X4(power(4), Z1)
	for n := 8; n <= 16; n += 4 {
		multiply(Z0, Z1, Z7, [...]VecPhysical{Z2, Z3, Z4, Z5})
		VMOVDQU64(Z4, power(n))
		VMOVDQA64(Z4, Z0)
	}
	VZEROUPPER()
	RET()
}

// nextKey makes k the next round key out of the one two before, or of 16 byte
// keys one before, and what VAESKEYGENASSIST gave.
func nextKey(k, t VecPhysical, word uint64) {
	VPSHUFD(Imm(word), t, t)
	for range 3 {
		VPSLLDQ(Imm(4), k, X3)
		if k == X3 || t == X3 {
			panic("X3 is taken")
		}
		VPXOR(X3, k, k)
	}
	VPXOR(t, k, k)
}

// double is multiplication by x in AES's field.
func double(b uint64) uint64 { return b<<1&0xff ^ b>>7*0x1b }

// encryptZero leaves H, the encrypted zero, in X0.
func encryptZero(roundKey func(int) Mem, rounds int) {
	VMOVDQU(roundKey(0), X0)
	for i := 1; i < rounds; i++ {
		VAESENC(roundKey(i), X0, X0)
	}
	VAESENCLAST(roundKey(rounds), X0, X0)
}

// multiply leaves a times b, reduced, in s[2].
func multiply(a, b, poly VecPhysical, s [4]VecPhysical) {
	lo, mi, hi, t := s[0], s[1], s[2], s[3]
	VPCLMULQDQ(Imm(0x00), b, a, lo)
	VPCLMULQDQ(Imm(0x01), b, a, mi)
	VPCLMULQDQ(Imm(0x10), b, a, t)
	VPCLMULQDQ(Imm(0x11), b, a, hi)
	VPXORD(t, mi, mi)
	reduce(lo, mi, hi, t, poly)
}

// reduce adds what lo and mi are modulo the polynomial to hi. Adding a multiple of
// the polynomial that makes the low half of lo zero is to add lo, its halves
// exchanged, and that half times poly to mi; and likewise with mi to hi.
func reduce(lo, mi, hi, t, poly Op) {
	for _, step := range reduction(lo, mi, hi, t, poly) {
		step()
	}
}

// reduction is the steps of reduce.
func reduction(lo, mi, hi, t, poly Op) []func() {
	return []func(){
		func() { VPCLMULQDQ(Imm(0x00), poly, lo, t) },
		func() { VPSHUFD(Imm(0x4e), lo, lo) },
		func() { VPTERNLOGD(Imm(xor3), lo, t, mi) },
		func() { VPCLMULQDQ(Imm(0x00), poly, mi, t) },
		func() { VPSHUFD(Imm(0x4e), mi, mi) },
		func() { VPTERNLOGD(Imm(xor3), mi, t, hi) },
	}
}

// xor3 is VPTERNLOG's table of a ^ b ^ c.
const xor3 = 0x96
