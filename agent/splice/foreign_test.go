// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// foreign is another tool's sockmap or sockhash, by the program that it has.
type foreign struct {
	name string
	in   ebpf.MapType
	kind ebpf.ProgramType // 0: none
	at   ebpf.AttachType
}

var foreigners = []foreign{
	{name: "no program", in: ebpf.SockMap},
	{"an sk_msg program", ebpf.SockMap, ebpf.SkMsg, ebpf.AttachSkMsgVerdict},
	{"an sk_skb verdict", ebpf.SockMap, ebpf.SkSKB, ebpf.AttachSkSKBVerdict},
	{"an sk_skb stream verdict", ebpf.SockMap, ebpf.SkSKB, ebpf.AttachSkSKBStreamVerdict},
	{name: "a sockhash without program", in: ebpf.SockHash},
	{"a sockhash with an sk_msg program", ebpf.SockHash, ebpf.SkMsg, ebpf.AttachSkMsgVerdict},
}

// sockmap makes the map. Its program lets everything pass.
func (f foreign) sockmap(t testing.TB) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "sl_foreign", Type: f.in, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if f.kind == 0 {
		return m
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "sl_foreign", Type: f.kind, AttachType: f.at,
		License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { prog.Close() })
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: m.FD(), Program: prog, Attach: f.at}); err != nil {
		t.Fatal(err)
	}
	return m
}

// Another tool's sockmap has the backend's socket, or the agent's, or gets it
// later. Where it has an sk_msg program, only one of us can be; otherwise every
// byte arrives in order. And the kernel has nothing to complain of.
func TestForeignSockmaps(t *testing.T) {
	needRoot(t)
	complaints := kernelLog(t)
	count := &figures.Figures{What: "another program's sockmap or sockhash"}
	figures.Record(t, count)
	const bytesEach = 1 << 20
	carry := func(t *testing.T, p *pair, key uint64) {
		t.Helper()
		count.Connections++
		count.Faults++
		for i := range 20 {
			if err := errors.Join(p.pass(p.agent, p.backend, 1+97*i), p.pass(p.backend, p.agent, 1+89*i)); err != nil {
				count.Failures++
				t.Fatal(err)
			}
		}
		if err := exchange(p, key, bytesEach, bytesEach); err != nil {
			count.Failures++
			t.Error(err)
		}
		count.Bytes += 2 * bytesEach
	}

	// Those that are there first must be attached first.
	first := map[string]*net.TCPListener{}
	for _, f := range foreigners {
		for side, established := range map[string]int32{"backend": passiveEstablished, "agent": activeEstablished} {
			l := listen(t, "tcp", "127.0.0.1:0")
			first[f.name+side] = l
			own(t, f.sockmap(t), established, addrOf(l).Port())
		}
	}
	s := open(t, Options{})
	for i, f := range foreigners {
		for _, side := range []string{"backend", "agent"} {
			t.Run(f.name+" has the "+side, func(t *testing.T) {
				l := first[f.name+side]
				know(t, s, addrOf(l), Auto)
				p := ends(t, s, l)
				carry(t, p, uint64(i))
				if f.kind == ebpf.SkMsg {
					expectPath(t, p.agent, PathRelay, "foreign_owner")
				}
			})
			t.Run(f.name+" gets the "+side, func(t *testing.T) {
				l := listen(t, "tcp", "127.0.0.1:0")
				know(t, s, addrOf(l), Auto)
				for _, unread := range []int{0, 5000} {
					p := ends(t, s, l)
					warm(t, p)
					if err := errors.Join(sendPattern(p.agent, 0, unread), sendPattern(p.backend, 0, unread)); err != nil {
						t.Fatal(err)
					}
					c := p.backend
					if side == "agent" {
						c = p.agent.tcp
					}
					err := insert(f.sockmap(t), c)
					if f.kind == ebpf.SkMsg && !errors.Is(err, unix.EBUSY) {
						t.Errorf("a second owner: %v, want EBUSY", err)
					}
					t.Logf("inserted: %v", err)
					if err := errors.Join(readPattern(p.backend, 0, unread), readPattern(p.agent, 0, unread)); err != nil {
						t.Fatal(err)
					}
					carry(t, p, uint64(i))
				}
			})
		}
	}
	if found := complaints(); found != "" {
		t.Errorf("the kernel complains:\n%s", found)
	}
}

// own is another tool that takes connections of a port into its sockmap: those
// that are accepted there, or those that lead there.
func own(t testing.TB, m *ebpf.Map, established int32, port uint16) {
	t.Helper()
	const op, remotePort, localPort = 0, 64, 68 // struct bpf_sock_ops
	update := asm.FnSockMapUpdate
	if m.Type() == ebpf.SockHash {
		update = asm.FnSockHashUpdate
	}
	where, want := int16(localPort), int32(port)
	if established == activeEstablished {
		where, want = remotePort, int32(uint32(port&0xff)<<24|uint32(port>>8)<<16)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sl_foreign", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R2, asm.R6, op, asm.Word),
			asm.JNE.Imm(asm.R2, established, "out"),
			asm.LoadMem(asm.R2, asm.R6, where, asm.Word),
			asm.JNE.Imm32(asm.R2, want, "out"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, m.FD()),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R4, 0),
			update.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { prog.Close() })
	root, err := CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	at, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: ebpf.AttachCGroupSockOps, Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { at.Close() })
}

const activeEstablished, passiveEstablished = 4, 5 // enum of struct bpf_sock_ops.op

// kernelLog returns what tells which lines about sockmaps the kernel has logged
// since. They are somebody else's if other tests run; none is good.
func kernelLog(t testing.TB) func() string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, io.SeekEnd)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "/dev/kmsg")
	t.Cleanup(func() { f.Close() })
	return func() string {
		var found strings.Builder
		line := make([]byte, 8<<10)
		for {
			n, err := unix.Read(fd, line)
			switch {
			case err == unix.EPIPE: // some were overwritten
				continue
			case err != nil:
				return found.String()
			}
			for _, word := range []string{"sk_psock", "sock_map", "sock_hash", "tcp_bpf", "sk_msg"} {
				if bytes.Contains(line[:n], []byte(word)) {
					found.Write(line[:n])
					break
				}
			}
		}
	}
}
