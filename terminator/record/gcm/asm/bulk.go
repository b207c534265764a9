// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// sealLoop encrypts 16 blocks at a time while it hashes the 16 before.
func (k *kernel) sealLoop() {
	CMPQ(k.n, U32(stride))
	JLT(LabelRef("tail"))
	k.count(k.v[:])
	k.encrypt(k.v[:], nil)
	k.crypt()
	k.keep()
	CMPQ(k.n, U32(stride))
	JLT(LabelRef("hashLast"))
	Label("loop")
	k.count(k.v[:])
	k.encrypt(k.v[:], k.hash())
	k.crypt()
	k.keep()
	CMPQ(k.n, U32(stride))
	JGE(LabelRef("loop"))
	Label("hashLast")
	for _, step := range k.hash() {
		step()
	}
}

// keep keeps output for GHASH.
func (k *kernel) keep() {
	for i, r := range k.v {
		VPSHUFB(k.reverse, r, k.d[i])
	}
}

// openLoop hashes 16 blocks while it decrypts them.
func (k *kernel) openLoop() {
	CMPQ(k.n, U32(stride))
	JLT(LabelRef("tail"))
	Label("loop")
	for i, r := range k.d {
		VMOVDQU64(at(k.src, i*vector), r)
		VPSHUFB(k.reverse, r, r)
	}
	k.count(k.v[:])
	k.encrypt(k.v[:], k.hash())
	k.crypt()
	CMPQ(k.n, U32(stride))
	JGE(LabelRef("loop"))
}

// crypt turns the key stream before its last round into output: the last key and
// the text are added as one.
func (k *kernel) crypt() {
	for i, r := range k.v {
		VPXORD(at(k.src, i*vector), k.last, k.t)
		VAESENCLAST(k.t, r, r)
	}
	for i, r := range k.v {
		VMOVDQU64(r, at(k.dst, i*vector))
	}
	k.advance(U32(stride))
}

// hash is the steps that take the 16 blocks in d into GHASH's state. The first
// register is the last one, because it waits for the state before.
func (k *kernel) hash() []func() {
	var steps []func()
	step := func(f func()) { steps = append(steps, f) }
	product := func(half uint64, d, to Register) {
		step(func() { VPCLMULQDQ(Imm(half), k.p, d, to) })
	}
	for n, i := range []int{1, 2, 3, 0} {
		d := k.d[i]
		step(func() { VMOVDQU64(at(k.table, powersAt+i*vector), k.p) })
		if i == 0 {
			step(func() { VPXORD(k.state, d, d) })
		}
		if n == 0 {
			product(0x00, d, k.lo)
			product(0x01, d, k.mi)
			product(0x10, d, k.t)
			product(0x11, d, k.hi)
			step(func() { VPXORD(k.t, k.mi, k.mi) })
			continue
		}
		product(0x00, d, k.t)
		step(func() { VPXORD(k.t, k.lo, k.lo) })
		product(0x01, d, k.t)
		product(0x10, d, k.u)
		step(func() { VPTERNLOGD(Imm(xor3), k.t, k.u, k.mi) })
		product(0x11, d, k.t)
		step(func() { VPXORD(k.t, k.hi, k.hi) })
	}
	return append(steps, k.settle()...)
}

// settle is the steps that make the state of the sums of products.
func (k *kernel) settle() []func() {
	hi, t := k.hi, k.t
	return append(reduction(k.lo, k.mi, k.hi, k.t, k.poly),
		func() { VEXTRACTI64X4(Imm(1), hi, y(t)) },
		func() { VPXORD(y(t), y(hi), y(hi)) },
		func() { VEXTRACTI32X4(Imm(1), y(hi), x(t)) },
		func() { VPXORD(x(t), x(hi), x(k.state)) },
	)
}
