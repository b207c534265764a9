// SPDX-License-Identifier: Apache-2.0

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// additionalData hashes what is authenticated only, block by block: there is
// little of it.
func (k *kernel) additionalData() {
	data, n := Load(Param("data"), GP64()), Load(Param("dataLen"), GP64())
	b := x(k.v[0])
	take := func() {
		VPSHUFB(x(k.reverse), b, b)
		VPXORD(x(k.state), b, b)
		k.clear()
		k.addFirst(b)
		for _, step := range k.settle() {
			step()
		}
	}
	VPXORD(k.state, k.state, k.state)
	Label("data")
	CMPQ(n, Imm(block))
	JLT(LabelRef("dataRest"))
	VMOVDQU64(at(data, 0), b)
	take()
	ADDQ(Imm(block), data)
	SUBQ(Imm(block), n)
	JMP(LabelRef("data"))
	Label("dataRest")
	TESTQ(n, n)
	JEQ(LabelRef("dataDone"))
	VMOVDQU8_Z(at(data, 0), mask(n), b)
	take()
	Label("dataDone")
}

// mask is one that has the first n bytes.
func mask(n Register) Register {
	bits, m := GP64(), K()
	MOVQ(I32(-1), bits)
	BZHIQ(n, bits, bits)
	KMOVQ(bits, m)
	return m
}

// clear sets the sums of products to zero.
func (k *kernel) clear() {
	for _, r := range []Register{k.lo, k.mi, k.hi} {
		VPXORD(r, r, r)
	}
}

// add adds the products of four blocks with powers of H.
func (k *kernel) add(d, powers Op) {
	VPCLMULQDQ(Imm(0x00), powers, d, k.t)
	VPXORD(k.t, k.lo, k.lo)
	VPCLMULQDQ(Imm(0x01), powers, d, k.t)
	VPCLMULQDQ(Imm(0x10), powers, d, k.u)
	VPTERNLOGD(Imm(xor3), k.t, k.u, k.mi)
	VPCLMULQDQ(Imm(0x11), powers, d, k.t)
	VPXORD(k.t, k.hi, k.hi)
}

// addFirst adds the product of one block and H.
func (k *kernel) addFirst(d Register) {
	VMOVDQU64(at(k.table, powersAt+15*block), x(k.p))
	k.add(z(d), k.p) // an instruction for 16 bytes cleared the rest of both
}

// tail takes the last 255 bytes or less. They and the block of lengths are hashed
// together: the last block of the message is multiplied by H^2. Only when there are
// 16 blocks, there would have to be an H^17, and the lengths come afterwards. The last
// vector may reach into the round keys behind the powers: its blocks there are zero.
func (k *kernel) tail() {
	Label("tail")
	k.clear()
	powers := GP64()
	LEAQ(at(k.n, 15), powers)
	ANDQ(I32(-block), powers)
	NEGQ(powers)
	ADDQ(k.table, powers)
	ADDQ(U32(powersAt+15*block), powers)
	CMPQ(k.n, U32(15*block))
	JLE(LabelRef("powers"))
	ADDQ(Imm(block), powers)
	Label("powers")

	v, d := k.v[0], k.d[0]
	hash := func() {
		VPSHUFB(k.reverse, d, d)
		VPXORD(k.state, d, d)
		VPXORD(k.state, k.state, k.state)
		k.add(d, at(powers, 0))
	}
	crypt := func() { // d is the text
		k.count([]Register{v})
		k.encrypt([]Register{v}, nil)
		VPXORD(d, k.last, k.t)
		VAESENCLAST(k.t, v, v)
	}

	SUBQ(Imm(vector), k.n)
	JLT(LabelRef("rest"))
	Label("vector")
	VMOVDQU64(at(k.src, 0), d)
	crypt()
	VMOVDQU64(v, at(k.dst, 0))
	if k.seal {
		VMOVDQA64(v, d)
	}
	hash()
	ADDQ(Imm(vector), powers)
	ADDQ(Imm(vector), k.src)
	ADDQ(Imm(vector), k.dst)
	SUBQ(Imm(vector), k.n)
	JGE(LabelRef("vector"))

	Label("rest")
	ADDQ(Imm(vector), k.n)
	JEQ(LabelRef("lengths"))
	m := mask(k.n)
	VMOVDQU8_Z(at(k.src, 0), m, d)
	crypt()
	VMOVDQU8(v, m, at(k.dst, 0))
	if k.seal {
		VMOVDQU8_Z(v, m, d)
	}
	hash()
	ADDQ(k.n, k.src)
	ADDQ(k.n, k.dst)
	rest := Load(Param("n"), GP64())
	ANDQ(U32(stride-1), rest)
	CMPQ(rest, U32(15*block))
	JLE(LabelRef("lengths"))
	for _, step := range k.settle() {
		step()
	}
	k.clear()
	Label("lengths")
}

// finish hashes the lengths, in bits, and gives or compares the tag.
func (k *kernel) finish() {
	data, n := Load(Param("dataLen"), GP64()), Load(Param("n"), GP64())
	SHLQ(Imm(3), data)
	SHLQ(Imm(3), n)
	b, state := k.d[0].(Vec).AsX(), x(k.state)
	VMOVQ(n, b)
	VPINSRQ(Imm(1), data, b, b)
	VPXORD(state, b, b)
	k.addFirst(b)
	for _, step := range k.settle() {
		step()
	}
	VPSHUFB(x(k.reverse), state, state)
	VPXORD(state, k.tag, k.tag)
	if k.seal {
		VMOVDQU64(k.tag, at(k.dst, 0))
		VZEROUPPER()
		RET()
		return
	}
	VPXORD(at(k.src, 0), k.tag, k.tag)
	wrong, bits, right := K(), GP32(), GP8()
	VPTESTMQ(k.tag, k.tag, wrong)
	KMOVW(wrong, bits)
	TESTL(bits, bits)
	SETEQ(right)
	Store(right, ReturnIndex(0))
	VZEROUPPER()
	RET()
}
