// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/sluice-gateway/sluice/bpf"
)

// Policy says whether connections to an endpoint may be spliced.
type Policy uint32

// The policies.
const (
	Auto Policy = Policy(bpf.SpliceSlPolicySlAuto) // splice, and heed what was learned of the endpoint
	On   Policy = Policy(bpf.SpliceSlPolicySlOn)   // splice, and try every connection afresh
	Off  Policy = Policy(bpf.SpliceSlPolicySlOff)
)

// Endpoint is an address that the agent dials for a route.
type Endpoint struct {
	Address netip.AddrPort
	Route   string // for people; cut to 63 bytes
	Policy  Policy
}

// SetEndpoints makes the endpoints known to the kernel half; connections to
// others are not spliced. What was learned of an endpoint stays as long as the
// endpoint does. Connections that exist are not affected.
func (s *Splicer) SetEndpoints(endpoints []Endpoint) error {
	want := make(map[bpf.SpliceSlEndpointKey]bpf.SpliceSlEndpoint, len(endpoints))
	for _, e := range endpoints {
		key := bpf.SpliceSlEndpointKey{Ip: e.Address.Addr().As16(), Port: e.Address.Port()}
		var v bpf.SpliceSlEndpoint
		text(v.Endpoint[:], netip.AddrPortFrom(e.Address.Addr().Unmap().WithZone(""), e.Address.Port()).String())
		text(v.Route[:], e.Route)
		v.Policy = bpf.SpliceSlPolicy(e.Policy)
		want[key] = v
	}

	s.use.RLock()
	defer s.use.RUnlock()
	if s.released {
		return errClosed
	}
	s.endpoints.Lock()
	defer s.endpoints.Unlock()
	var (
		key  bpf.SpliceSlEndpointKey
		have bpf.SpliceSlEndpoint
		gone []bpf.SpliceSlEndpointKey
		errs []error
	)
	for all := s.objs.SlEndpoints.Iterate(); all.Next(&key, &have); {
		w, ok := want[key]
		if !ok {
			gone = append(gone, key)
			continue
		}
		w.Reader, w.Unjoined, w.Skipped = have.Reader, have.Unjoined, have.Skipped
		if w == have {
			delete(want, key)
		} else {
			want[key] = w
		}
	}
	for _, key := range gone {
		if err := s.objs.SlEndpoints.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete endpoint %s: %w", addrPort(key), err))
		}
	}
	for key, v := range want {
		if err := s.objs.SlEndpoints.Put(key, &v); err != nil {
			errs = append(errs, fmt.Errorf("write endpoint %s: %w", addrPort(key), err))
		}
	}
	return errors.Join(errs...)
}

func addrPort(key bpf.SpliceSlEndpointKey) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(key.Ip).Unmap(), key.Port)
}

// text writes s as a C string, cut to fit.
func text(dst []int8, s string) {
	for i := range min(len(s), len(dst)-1) {
		dst[i] = int8(s[i])
	}
}
