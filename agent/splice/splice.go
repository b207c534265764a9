// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

const (
	// DefaultMark is the SO_MARK of backend legs. Its bits are outside of the
	// masks that kube-proxy (0xc000), Cilium (0xffff0f00), Calico (0xffff0000)
	// and the AWS CNI (0x80) use, and it never leaves the node.
	DefaultMark = 0x2051

	// Limit is how many bytes lie redirected and unread at most, for each
	// direction of a connection.
	Limit = 1 << 20

	// Credit is how many of them a Conn leaves with its backend before it waits.
	// The rest is for those that the kernel refuses for want of memory, which
	// stay booked until the Conn asks again.
	Credit = Limit - 2*maxWrite

	// earn is how many reads a reader does by recvmsg(2) before bytes are
	// redirected to it. Programs that receive a header and splice(2) the rest
	// are past the header by then.
	earn = 4

	defaultMaxConnections = 65536
)

// Options for Open. The zero value is what an agent uses.
type Options struct {
	// Cgroup is the cgroup2 directory whose sockets are joined. Backends
	// outside of it are reached by TCP. Empty: the root of cgroup2.
	Cgroup string

	// PinDir is where the maps are pinned for bpftool, on a bpffs. Empty:
	// DefaultPinDir. Not being able to pin is reported and does no harm.
	PinDir string

	// Mark is the SO_MARK of the agent's backend legs. Zero: DefaultMark.
	Mark uint32

	// MaxConnections is how many connections are in the maps at most; more are
	// ordinary TCP. Zero: 65,536.
	MaxConnections int

	// Log gets resets of connections and what is out of the ordinary. Nil:
	// slog.Default().
	Log *slog.Logger
}

// Splicer is the loaded and attached kernel half. Its methods may be called
// from any goroutine.
type Splicer struct {
	objs     bpf.SpliceObjects
	links    []link.Link // cilium/ebpf detaches a link that is garbage collected
	mark     uint32
	log      *slog.Logger
	labels   []string // outcome labels by enum value
	config   bpf.SpliceSlSettings
	report   Report
	pins     *pins // nil: not pinned
	events   *events
	resets   atomic.Uint64
	proving  atomic.Bool // the self-test runs: its resets are expected
	watchers sync.WaitGroup

	endpoints sync.Mutex // held while entries of sl_endpoints are read and written back

	mu     sync.Mutex
	closed bool
	conns  map[*Conn]struct{}
	// waiting are the connections whose writer waits, by flow.
	waiting map[uint64]*Conn

	use      sync.RWMutex // held for reading while maps are used
	released bool
}

// errClosed says that the maps are gone.
var errClosed = errors.New("splicer is closed")

// Open loads, attaches and proves the kernel half. Without it, it returns an
// error wrapping an *Unavailable whose Reason is a stable label. The caller
// closes the Splicer.
func Open(opts Options) (*Splicer, error) {
	if opts.Mark == 0 {
		opts.Mark = DefaultMark
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = defaultMaxConnections
	}
	if opts.PinDir == "" {
		opts.PinDir = DefaultPinDir
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Cgroup == "" {
		root, err := CgroupRoot()
		if err != nil {
			return nil, err
		}
		opts.Cgroup = root
	}
	s := &Splicer{mark: opts.Mark, log: opts.Log, conns: map[*Conn]struct{}{}, waiting: map[uint64]*Conn{}}
	if err := s.load(opts.MaxConnections); err != nil {
		return nil, err
	}
	if err := s.start(opts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Splicer) start(opts Options) error {
	if err := s.configure(); err != nil {
		return err
	}
	if err := s.attach(opts.Cgroup); err != nil {
		return err
	}
	events, err := newEvents(s.objs.SlEvents)
	if err != nil {
		return unavailable(ReasonKernel, "open map sl_events: %w", err)
	}
	s.events = events
	s.watchers.Go(func() { s.watch(events) })

	s.proving.Store(true)
	s.report = s.selfTest()
	s.proving.Store(false)
	s.report.Cgroup = opts.Cgroup
	if !s.report.OK() {
		return &Unavailable{Reason: ReasonSelfTest, Err: errors.New(s.report.failed()), Report: s.report}
	}
	s.pins, err = pin(opts.PinDir, map[string]*ebpf.Map{
		bpf.SpliceMapSlEndpoints: s.objs.SlEndpoints,
		bpf.SpliceMapSlFlows:     s.objs.SlFlows,
		bpf.SpliceMapSlOutcomes:  s.objs.SlOutcomes,
		bpf.SpliceMapSlBytes:     s.objs.SlBytes,
		bpf.SpliceMapSlConfig:    s.objs.SlConfig,
	})
	if err != nil {
		s.log.Warn("splice maps are not pinned: bpftool will not find them by name", "err", err)
		s.report.Pins = err.Error()
	} else {
		s.report.Pins = s.pins.dir
	}
	return nil
}

func (s *Splicer) load(maxConnections int) error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return unavailable(ReasonBTF, "kernel type information: %w (it needs CONFIG_DEBUG_INFO_BTF)", err)
	}
	// Asked for beforehand: what a feature probe says without them is misleading.
	if missing, err := MissingCapabilities(); err == nil && len(missing) > 0 {
		return unavailable(ReasonCapability, "missing %s: run as root, or grant them (AmbientCapabilities= of systemd, securityContext of a pod)",
			strings.Join(missing, ", "))
	}
	spec, err := bpf.LoadSplice()
	if err != nil {
		return unavailable(ReasonKernel, "read embedded programs: %w", err)
	}
	if s.labels, err = outcomeLabels(spec); err != nil {
		return unavailable(ReasonKernel, "read embedded programs: %w", err)
	}
	for _, name := range []string{bpf.SpliceMapSlFlows, bpf.SpliceMapSlAnnounced,
		bpf.SpliceMapSlEndpoints, bpf.SpliceMapSlMembers} {
		spec.Maps[name].MaxEntries = uint32(maxConnections)
	}
	spec.Maps[bpf.SpliceMapSlSocks].MaxEntries = 2 * uint32(maxConnections)

	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		var verifier *ebpf.VerifierError
		switch {
		case errors.As(err, &verifier):
			return unavailable(ReasonVerifier, "load programs: %w", err)
		case errors.Is(err, unix.EPERM):
			return unavailable(ReasonCapability, "load programs: %w (it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)", err)
		default:
			return unavailable(ReasonKernel, "load programs: %w (it needs Linux 6.3 or newer)", err)
		}
	}
	owner, err := s.objs.SlWhoami.Run(&ebpf.RunOptions{})
	if err != nil {
		s.objs.Close()
		return unavailable(ReasonKernel, "ask for the process id: %w", err)
	}
	s.config = bpf.SpliceSlSettings{
		Mark: s.mark, Owner: owner, Limit: Limit, Credit: Credit, Earn: earn,
		SysSplice: unix.SYS_SPLICE, SysSpliceCompat: spliceCompat, SysIoctl: unix.SYS_IOCTL,
	}
	return nil
}

func (s *Splicer) configure() error {
	if err := s.objs.SlConfig.Put(uint32(0), &s.config); err != nil {
		return fmt.Errorf("write map sl_config: %w", err)
	}
	return nil
}

// attach brings the programs to work: first those that keep the books, last
// the one that lets sockets in.
func (s *Splicer) attach(cgroup string) error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: s.objs.SlSocks.FD(), Program: s.objs.SlMsg, Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		return unavailable(ReasonKernel, "attach sl_msg: %w", err)
	}
	if err := errors.Join(s.trace(s.objs.SlRecv), s.trace(s.objs.SlAdjust)); err != nil {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupSockOps, Program: s.objs.SlSockops})
	if err != nil {
		return unavailable(ReasonCgroup, "attach sl_sockops to %s: %w", cgroup, err)
	}
	s.links = append(s.links, l)
	return nil
}

// traceIoctl watches ioctl(2). Through tracefs that is cheaper for all other
// system calls, but not everywhere is it mounted.
func (s *Splicer) traceIoctl() error {
	l, err := link.Tracepoint("syscalls", "sys_enter_ioctl", s.objs.SlIoctl, nil)
	if err != nil {
		return s.trace(s.objs.SlSysEnter)
	}
	s.links = append(s.links, l)
	return nil
}

func (s *Splicer) trace(prog *ebpf.Program) error {
	l, err := link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
	if err != nil {
		return unavailable(ReasonKernel, "attach %s: %w", prog, err)
	}
	s.links = append(s.links, l)
	return nil
}

// Close takes in no more connections and redirects no more bytes. Connections
// that are alive lose nothing: what was redirected is still read, the rest goes
// by TCP, and the programs stay until the last of them is closed.
func (s *Splicer) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	last := len(s.conns) == 0
	s.config.Stopped = 1
	s.mu.Unlock()

	err := s.configure()
	if s.pins != nil {
		err = errors.Join(err, s.pins.close())
	}
	if last {
		err = errors.Join(err, s.release())
	}
	return err
}

// release detaches and unloads. Sockets that are still members keep what they
// need of it alive in the kernel.
func (s *Splicer) release() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	if s.events != nil {
		errs = append(errs, s.events.close())
	}
	s.watchers.Wait()
	s.use.Lock()
	defer s.use.Unlock()
	s.released = true
	if err := errors.Join(append(errs, s.objs.Close())...); err != nil {
		return fmt.Errorf("detach splice programs: %w", err)
	}
	return nil
}

func (s *Splicer) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *Splicer) remove(c *Conn) {
	s.mu.Lock()
	_, there := s.conns[c]
	delete(s.conns, c)
	last := there && s.closed && len(s.conns) == 0
	s.mu.Unlock()
	if last {
		if err := s.release(); err != nil {
			s.log.Warn("end of the last connection", "err", err)
		}
	}
}

// SelfTest returns what the self-test at Open saw.
func (s *Splicer) SelfTest() Report { return s.report }
