// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/sluice-gateway/sluice/agent/config"
)

// ownFields are those of a request that the gateway answers for.
var ownFields = []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Envoy-External-Address", "X-Envoy-Internal",
	"X-Request-Id", "X-Forwarded-Client-Cert"}

// trimTrailer takes out of a request's trailer what may not be in one (RFC 9110 section
// 6.5.1), and what is for the gateway or for rules to say: some backends take trailers
// for fields of the header.
func trimTrailer(trailer http.Header, rules ...*config.HTTPHeaders) {
	for name := range trailer {
		if !httpguts.ValidTrailerHeader(name) || slices.Contains(ownFields, name) {
			delete(trailer, name)
		}
	}
	for _, r := range rules {
		if r == nil {
			continue
		}
		for _, name := range r.Remove {
			trailer.Del(name)
		}
		for _, field := range slices.Concat(r.Set, r.Add) {
			trailer.Del(field.Name)
		}
	}
}
