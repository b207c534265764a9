// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is where all of ours is.
var table = &nftables.Table{Name: "sluice", Family: nftables.TableFamilyINet}

// rulesVersion is part of the names of what never changes under its name:
// another program version that makes other rules of the same listener must not
// take these for its own.
const rulesVersion = "1"

// object names something of the table after what it is for.
func object(kind, name string) string {
	n := kind + "/" + strings.Map(func(r rune) rune {
		if r == ':' {
			return '/' // nft(8) takes no colon in a name
		}
		return r
	}, name)
	if len(n) > 200 { // NFT_NAME_MAXLEN is 256
		n = kind + "/" + digest(name)
	}
	return n
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func timeoutName(idle time.Duration) string { return fmt.Sprintf("idle-%d", seconds(idle)) }

func seconds(d time.Duration) uint32 { return uint32(max(1, d/time.Second)) }

// content is what the table has to be. Chains and sets of listeners and
// backends carry a hash of their content in their names, so what is there is
// right.
type content struct {
	chains   map[string][][]expr.Any
	sets     map[string]endpointSet
	counters map[string]bool
	timeouts map[string]time.Duration
	// Elements of the sets with fixed names.
	addresses [2][]nftables.SetElement // ip4, ip6
	ports     []nftables.SetElement
	sessions  []nftables.SetElement
}

// endpointSet maps slots to endpoints of one version of IP.
type endpointSet struct {
	v         *ip
	endpoints []netip.AddrPort
}

func contentOf(listeners []listener) *content {
	c := &content{chains: map[string][][]expr.Any{}, sets: map[string]endpointSet{},
		counters: map[string]bool{}, timeouts: map[string]time.Duration{}}
	for i := range listeners {
		c.add(&listeners[i])
	}
	return c
}

func (c *content) add(l *listener) {
	parts := []string{rulesVersion, l.idle.String()}
	set := func(s *share, v *ip) string {
		name := object("endpoints"+v.name, s.backend) + "/" + digest(rulesVersion, fmt.Sprint(family(s.endpoints, v.is4)))
		c.sets[name] = endpointSet{v, family(s.endpoints, v.is4)}
		return name
	}
	for i := range l.shares {
		s := &l.shares[i]
		parts = append(parts, fmt.Sprint(s.weight), s.backend, fmt.Sprint(s.endpoints))
	}
	chain := object("listener", l.name) + "/" + digest(parts...)
	c.chains[chain] = l.sessionRules(set)
	counting := object("count", l.name)
	c.chains[counting] = l.countRules()
	for _, k := range []string{"up", "down", "begun", "refused"} {
		c.counters[object(k, l.name)] = true
	}
	c.timeouts[timeoutName(l.idle)] = l.idle

	to := func(chain string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }
	mark := labelOf(l.name)
	c.sessions = append(c.sessions, nftables.SetElement{Key: mark[:], VerdictData: to(counting)})
	if len(l.addresses) == 0 {
		c.ports = append(c.ports, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, l.port), VerdictData: to(chain)})
	}
	for _, a := range l.addresses {
		i := 0
		if a.Is6() {
			i = 1
		}
		c.addresses[i] = append(c.addresses[i], nftables.SetElement{Key: key(netip.AddrPortFrom(a, l.port)), VerdictData: to(chain)})
	}
}

// fixedSets are the sets that are always there.
func (c *content) fixedSets() map[*nftables.Set][]nftables.SetElement {
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.BigEndian}
	}
	return map[*nftables.Set][]nftables.SetElement{
		set(setAddresses+ip4.name, ip4.endpoint): c.addresses[0],
		set(setAddresses+ip6.name, ip6.endpoint): c.addresses[1],
		set(setPorts, nftables.TypeInetService):  c.ports,
		// A label is as long as an IPv6 address, and nft(8) can list a set of those.
		set(setSessions, nftables.TypeIP6Addr): c.sessions,
	}
}

func (e endpointSet) add(conn *nftables.Conn, name string) error {
	set := &nftables.Set{Table: table, Name: name, IsMap: true, KeyType: nftables.TypeMark, DataType: e.v.endpoint, KeyByteOrder: binaryutil.NativeEndian}
	var elements []nftables.SetElement
	for slot, endpoint := range spread(e.endpoints) {
		elements = append(elements, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, uint32(slot)), Val: key(endpoint)})
	}
	return conn.AddSet(set, elements)
}

// dial opens a connection to nftables that takes transactions of any size.
func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(64<<20), c.SetReadBuffer(8<<20))
	}))
}

// exists tells whether the table is there.
func exists(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }), nil
}

// remove takes the table away.
func remove(conn *nftables.Conn) error {
	conn.DelTable(table)
	if err := conn.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove table: %w", err)
	}
	return nil
}

// present is what the table has of what comes and goes.
type present struct {
	chains, sets map[string]bool
	objects      map[string]*nftables.NamedObj
}

func read(conn *nftables.Conn) (*present, error) {
	p := &present{map[string]bool{}, map[string]bool{}, map[string]*nftables.NamedObj{}}
	if there, err := exists(conn); err != nil || !there {
		return p, err
	}
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == table.Name && c.Hooknum == nil {
			p.chains[c.Name] = true
		}
	}
	sets, err := conn.GetSets(table)
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		p.sets[s.Name] = true
	}
	objects, err := conn.GetNamedObjects(table)
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	for _, o := range objects {
		named := o.(*nftables.NamedObj)
		p.objects[named.Name] = named
	}
	return p, nil
}

// write makes the table what c says, in one transaction. Chains and sets that
// are right are not touched, and counters go on.
func (c *content) write(conn *nftables.Conn) error {
	have, err := read(conn)
	if err != nil {
		return err
	}
	conn.AddTable(table)
	for _, name := range slices.Sorted(maps.Keys(c.counters)) {
		if have.objects[name] == nil {
			conn.AddObj(&nftables.NamedObj{Table: table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.timeouts)) {
		if have.objects[name] == nil {
			idle := seconds(c.timeouts[name])
			conn.AddObj(&nftables.NamedObj{Table: table, Name: name, Type: nftables.ObjTypeCtTimeout, Obj: &expr.CtTimeout{
				L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_UDP, Policy: expr.CtStatePolicyTimeout{
					expr.CtStateUDPUNREPLIED: min(idle, seconds(oneWayTimeout)), expr.CtStateUDPREPLIED: idle}}})
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.sets)) {
		if !have.sets[name] {
			errs = append(errs, c.sets[name].add(conn, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.chains)) {
		if !have.chains[name] {
			addRules(conn, conn.AddChain(&nftables.Chain{Table: table, Name: name}), c.chains[name])
		}
	}
	fixed := map[string]bool{}
	for set, elements := range c.fixedSets() {
		fixed[set.Name] = true
		errs = append(errs, conn.AddSet(set, nil))
		conn.FlushSet(set)
		if len(elements) > 0 {
			errs = append(errs, conn.SetAddElements(set, elements))
		}
	}
	for _, f := range fixedChains() {
		fixed[f.Name] = true
		f.Table = table
		chain := conn.AddChain(&f.Chain)
		conn.FlushChain(chain)
		addRules(conn, chain, f.rules)
	}
	// What nothing refers to any more.
	for name := range have.chains {
		if c.chains[name] == nil && !fixed[name] {
			conn.FlushChain(&nftables.Chain{Table: table, Name: name})
			conn.DelChain(&nftables.Chain{Table: table, Name: name})
		}
	}
	for name := range have.sets {
		if _, wanted := c.sets[name]; !wanted && !fixed[name] {
			conn.DelSet(&nftables.Set{Table: table, Name: name})
		}
	}
	for name, o := range have.objects {
		if _, timeout := c.timeouts[name]; !timeout && !c.counters[name] {
			conn.DeleteObject(o)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change table %q: %w", table.Name, err)
	}
	return nil
}

func addRules(conn *nftables.Conn, chain *nftables.Chain, rules [][]expr.Any) {
	for _, r := range rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r})
	}
}
