// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/sluice-gateway/sluice/bpf"
)

// outcomeLabels returns the labels of the outcomes by their values, as the C
// enum names them.
func outcomeLabels(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("sl_outcome", &enum); err != nil {
		return nil, fmt.Errorf("enum sl_outcome: %w", err)
	}
	labels := make([]string, len(enum.Values))
	for _, v := range enum.Values {
		labels[v.Value] = strings.TrimPrefix(v.Name, "sl_")
	}
	return labels, nil
}

func (s *Splicer) label(o bpf.SpliceSlOutcome) string {
	if o == bpf.SpliceSlOutcomeSlUndecided {
		return ReasonOff // the kernel half has never seen it
	}
	return s.labels[o]
}

// Outcomes returns how many connections became what, by label. A connection
// counts once: when it is first spliced, when it is clear that it never will
// be, or when it ends.
func (s *Splicer) Outcomes() (map[string]uint64, error) {
	s.use.RLock()
	defer s.use.RUnlock()
	if s.released {
		return nil, errClosed
	}
	counts, err := s.objs.SlOutcomes.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read map sl_outcomes: %w", err)
	}
	out := map[string]uint64{}
	for i, label := range s.labels[1:] { // no counter for the undecided
		out[label] = binary.NativeEndian.Uint64(counts[8*i:])
	}
	return out, nil
}

// Bytes returns the bytes redirected since Open; up is towards backends.
func (s *Splicer) Bytes() (up, down uint64, err error) {
	s.use.RLock()
	defer s.use.RUnlock()
	if s.released {
		return 0, 0, errClosed
	}
	var perCPU []bpf.SpliceSlByteCounts
	if err := s.objs.SlBytes.Lookup(uint32(0), &perCPU); err != nil {
		return 0, 0, fmt.Errorf("read map sl_bytes: %w", err)
	}
	for _, b := range perCPU {
		up += b.Up
		down += b.Down
	}
	return up, down, nil
}

// outcomeOf is what has become of a connection so far, or why it is not
// spliced yet.
func outcomeOf(end bpf.SpliceSlEnd, flow *bpf.SpliceSlFlow) bpf.SpliceSlOutcome {
	switch {
	case flow == nil:
		return end.Reason
	case flow.Counted != 0:
		return flow.Reason
	case flow.Joined == 0:
		return bpf.SpliceSlOutcomeSlPeerNotJoined
	}
	switch flow.Backend.Reader {
	case bpf.SpliceSlReaderSlByRecv:
		return bpf.SpliceSlOutcomeSlTcpBusy
	case bpf.SpliceSlReaderSlBySplice:
		return bpf.SpliceSlOutcomeSlReaderSplices
	case bpf.SpliceSlReaderSlByWaiting:
		return bpf.SpliceSlOutcomeSlReaderWaits
	case bpf.SpliceSlReaderSlByPeeking:
		return bpf.SpliceSlOutcomeSlReaderPeeks
	case bpf.SpliceSlReaderSlByUlp:
		return bpf.SpliceSlOutcomeSlReaderUlp
	}
	if flow.Backend.Sent != 0 {
		return bpf.SpliceSlOutcomeSlTcpBusy
	}
	return bpf.SpliceSlOutcomeSlReaderUnproven
}
