// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// kernel is the registers of one of the two functions that take a message.
type kernel struct {
	seal                       bool
	labels                     int
	table, rounds, dst, src, n Register

	whiten, last  Register    // round keys, in each block
	middle        [9]Register // the nine before the last one
	reverse, poly Register
	counter, four Register // the next four counters, what makes them the next ones

	v          [4]Register // counters, then key stream, then output
	d          [4]Register // ciphertext for GHASH, bytes reversed
	lo, mi, hi Register    // sums of products
	t, u, p    Register
	state      Register // GHASH's, in the first block; the others are zero
	tag        Register // the encrypted counter of the tag
}

// message writes seal or open: the whole of a message in one call.
func message(name string, seal bool) {
	result := ""
	doc := "seal encrypts n bytes from src to dst and appends the tag."
	if !seal {
		result = " bool"
		doc = "open decrypts n bytes from src to dst and tells whether the tag behind them is right."
	}
	TEXT(name, NOSPLIT, "func(table *[496]byte, rounds int, nonce *[12]byte, dst, src *byte, n int, data *byte, dataLen int)"+result)
	Pragma("noescape")
	Doc(doc)
	k := &kernel{seal: seal}
	k.begin()
	k.additionalData()
	if seal {
		k.sealLoop()
	} else {
		k.openLoop()
	}
	k.tail()
	k.finish()
}

// label is one that no other is equal to.
func (k *kernel) label(what string) string {
	k.labels++
	return fmt.Sprintf("%s%d", what, k.labels)
}

// begin loads the arguments, keys and constants, and encrypts the tag's counter.
func (k *kernel) begin() {
	k.table = Load(Param("table"), GP64())
	k.rounds = Load(Param("rounds"), GP64())
	k.dst = Load(Param("dst"), GP64())
	k.src = Load(Param("src"), GP64())
	k.n = Load(Param("n"), GP64())
	broadcast := func(m Mem) Register {
		r := ZMM()
		VBROADCASTI32X4(m, r)
		return r
	}
	k.reverse, k.poly, k.four = broadcast(reverse), broadcast(poly), broadcast(four)
	k.whiten = broadcast(at(k.table, keysAt))
	end := GP64() // of the round keys
	MOVQ(k.rounds, end)
	SHLQ(Imm(4), end)
	ADDQ(k.table, end)
	for i := range k.middle {
		k.middle[i] = broadcast(at(end, keysAt+(i-9)*block))
	}
	k.last = broadcast(at(end, keysAt))

	// 12 bytes of nonce make block of counter 0.
	nonce := Load(Param("nonce"), GP64())
	mask, words := GP32(), K()
	MOVL(U32(0b111), mask)
	KMOVW(mask, words)
	zero := XMM()
	VMOVDQU32_Z(at(nonce, 0), words, zero)
	VPSHUFB(x(k.reverse), zero, zero)
	k.counter = ZMM()
	VSHUFI64X2(Imm(0), z(zero), z(zero), k.counter)
	VPADDD(first, k.counter, k.counter)
	tag := XMM()
	VPADDD(tagOne, zero, tag)
	VPSHUFB(x(k.reverse), tag, tag)
	k.encrypt([]Register{tag}, nil)
	VAESENCLAST(x(k.last), tag, tag)
	k.tag = tag

	for _, r := range []*Register{&k.lo, &k.mi, &k.hi, &k.t, &k.u, &k.p, &k.state} {
		*r = ZMM()
	}
	for i := range k.v {
		k.v[i], k.d[i] = ZMM(), ZMM()
	}
}

// encrypt takes counters through all rounds but the last, and
// emits steps of something else in between.
func (k *kernel) encrypt(v []Register, steps []func()) {
	as := func(key Register) Register {
		if v[0].Size() == 16 {
			return x(key)
		}
		return key
	}
	for _, r := range v {
		VPXORD(as(k.whiten), r, r)
	}
	short := k.label("short")
	CMPQ(k.rounds, Imm(10))
	JEQ(LabelRef(short))
	for i := 1; i <= 4; i++ {
		key := ZMM()
		VBROADCASTI32X4(at(k.table, keysAt+i*block), key)
		for _, r := range v {
			VAESENC(as(key), r, r)
		}
	}
	Label(short)
	slots := len(k.middle) * len(v)
	done := 0
	for i, key := range k.middle {
		for j, r := range v {
			VAESENC(as(key), r, r)
			for slot := i*len(v) + j + 1; done < len(steps)*slot/slots; done++ {
				steps[done]()
			}
		}
	}
}

// count puts the next counters into the registers.
func (k *kernel) count(v []Register) {
	for _, r := range v {
		VPSHUFB(k.reverse, k.counter, r)
		VPADDD(k.four, k.counter, k.counter)
	}
}

// advance goes on to the rest of the message.
func (k *kernel) advance(bytes Op) {
	ADDQ(bytes, k.src)
	ADDQ(bytes, k.dst)
	SUBQ(bytes, k.n)
}
