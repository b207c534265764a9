// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of nftables: 1 and 2 are 16 bytes each, 9 is the second word of 1.
const (
	reg1     = unix.NFT_REG_1
	reg2     = unix.NFT_REG_2
	reg1word = unix.NFT_REG32_01
	verdict  = unix.NFT_REG_VERDICT
)

// Seeds of the two hashes. They are the same everywhere, so that an address
// that moves to another node keeps its clients' endpoints.
const (
	shareSeed    = 0x736c7531
	endpointSeed = 0x736c7532
)

// The conntrack label of a session: ours, then the listener's. It tells the
// sessions of the table apart from everything else, also after a restart.
var ours = [8]byte{'s', 'l', 'u', 'i', 'c', 'e', 0, 1}

type label [16]byte

func labelOf(listener string) (l label) {
	sum := sha256.Sum256([]byte(listener))
	copy(l[:8], ours[:])
	copy(l[8:], sum[:8])
	return l
}

// ip says where things are in the header of a version of IP.
type ip struct {
	version           uint32 // NFPROTO_*
	src, dst, size    uint32
	portReg           uint32 // behind an address in reg1
	is4               bool
	name              string
	address, endpoint nftables.SetDatatype
}

var (
	ip4 = &ip{unix.NFPROTO_IPV4, 12, 16, 4, reg1word, true, "4", nftables.TypeIPAddr,
		nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)}
	ip6 = &ip{unix.NFPROTO_IPV6, 8, 24, 16, reg2, false, "6", nftables.TypeIP6Addr,
		nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService)}
)

// key is an address and port as sets have them.
func key(e netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(e.Addr().AsSlice(), e.Port()), 0, 0)
}

func equal(reg uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

func (v *ip) only() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, equal(reg1, byte(v.version))}
}

func onlyUDP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, equal(reg1, unix.IPPROTO_UDP)}
}

// notOver leaves out datagrams that go over the loopback link.
func notOver(key expr.MetaKey) []expr.Any {
	lo := make([]byte, 16)
	copy(lo, "lo")
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: lo}}
}

func (v *ip) load(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: v.size}
}

func loadPort(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
}

func goTo(set string) expr.Any {
	return &expr.Lookup{SourceRegister: reg1, DestRegister: verdict, IsDestRegSet: true, SetName: set}
}

func count(counter string) expr.Any {
	return &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}
}

// Sets with fixed names: which listener a destination belongs to, and where the
// datagrams of a session are counted.
const (
	setAddresses = "addresses" // and "4" or "6"
	setPorts     = "ports"
	setSessions  = "sessions"
)

// fixedChain is a base chain, or one that base chains jump to, with its rules.
type fixedChain struct {
	nftables.Chain
	rules [][]expr.Any
}

// fixedChains are the same for every snapshot. Ours come just before those of
// others at the same hook: the address and port of a listener are its own.
func fixedChains() []fixedChain {
	at := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority int32, rules ...[]expr.Any) fixedChain {
		return fixedChain{nftables.Chain{Name: name, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))}, rules}
	}
	jump := func(chain string) []expr.Any {
		return append(onlyUDP(), &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
	}
	counting := append(onlyUDP(), &expr.Ct{Key: expr.CtKeyLABELS, Register: reg1}, goTo(setSessions))
	masquerade := append(append(notOver(expr.MetaKeyOIFNAME), onlyUDP()...),
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg1}, equal(reg1, ours[:]...), &expr.Masq{FullyRandom: true})
	return []fixedChain{
		{Chain: nftables.Chain{Name: "destination"}, rules: [][]expr.Any{
			append(ip4.only(), ip4.load(reg1, ip4.dst), loadPort(ip4.portReg, 2), goTo(setAddresses+ip4.name)),
			append(ip6.only(), ip6.load(reg1, ip6.dst), loadPort(ip6.portReg, 2), goTo(setAddresses+ip6.name)),
			{&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
				equal(reg1, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)...), loadPort(reg1, 2), goTo(setPorts)},
		}},
		at("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -110, jump("destination")),
		at("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -110, jump("destination")),
		at("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 90, masquerade),
		// Each datagram once: those over the loopback link pass output and prerouting.
		at("count-in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -50, append(notOver(expr.MetaKeyIIFNAME), counting...)),
		at("count-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, -50, counting),
	}
}

// countRules count a datagram of one of the listener's sessions.
func (l *listener) countRules() [][]expr.Any {
	direction := func(d byte, counter string) []expr.Any {
		return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, equal(reg1, d), count(counter)}
	}
	return [][]expr.Any{direction(0, object("up", l.name)), direction(1, object("down", l.name))}
}

// sessionRules begin a session of the listener. endpointSet names the set of a
// share's endpoints.
func (l *listener) sessionRules(endpointSet func(*share, *ip) string) [][]expr.Any {
	mark := labelOf(l.name)
	rules := [][]expr.Any{{
		&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: timeoutName(l.idle)},
		&expr.Immediate{Register: reg1, Data: mark[:]},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg1, SourceRegister: true},
	}}
	var total uint32
	for _, s := range l.shares {
		total += s.weight
	}
	var from uint32
	for i := range l.shares {
		s := &l.shares[i]
		to := from + s.weight
		for _, v := range []*ip{ip4, ip6} {
			endpoints := family(s.endpoints, v.is4)
			if len(endpoints) == 0 {
				continue
			}
			rule := v.only()
			if len(l.shares) > 1 {
				rule = append(rule, v.load(reg1, v.src), loadPort(v.portReg, 0),
					&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: v.size + 4, Modulus: total, Seed: shareSeed, Type: expr.HashTypeJenkins},
					&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
					&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: binary.BigEndian.AppendUint32(nil, from)},
					&expr.Cmp{Op: expr.CmpOpLt, Register: reg1, Data: binary.BigEndian.AppendUint32(nil, to)})
			}
			rules = append(rules, append(rule, v.load(reg1, v.src),
				&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: v.size, Modulus: uint32(slots(len(endpoints))), Seed: endpointSeed, Type: expr.HashTypeJenkins},
				&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: endpointSet(s, v)},
				count(object("begun", l.name)),
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: v.version, RegAddrMin: reg1, RegProtoMin: v.portReg}))
		}
		from = to
	}
	return append(rules, []expr.Any{count(object("refused", l.name)),
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
}

// isOurs tells whether a conntrack label is one of ours.
func isOurs(labels []byte) bool {
	return len(labels) == len(label{}) && bytes.HasPrefix(labels, ours[:])
}
