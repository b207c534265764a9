// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"net/http"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// httpFilters are the filters of a rule or of a backendRef, put together.
type httpFilters struct {
	request, response *config.HTTPHeaders
	redirect          *config.HTTPRedirect
	rewrite           *config.HTTPURLRewrite
}

// add takes a filter in. It returns a verdict for a reference that cannot be
// resolved, or a problem for a filter that is not supported; either must not
// be skipped as if it were not there.
func (f *httpFilters) add(in *gwv1.HTTPRouteFilter) (verdict, string) {
	switch {
	case in.Type == gwv1.HTTPRouteFilterRequestHeaderModifier && in.RequestHeaderModifier != nil:
		f.request = headers(in.RequestHeaderModifier)
	case in.Type == gwv1.HTTPRouteFilterResponseHeaderModifier && in.ResponseHeaderModifier != nil:
		f.response = headers(in.ResponseHeaderModifier)
	case in.Type == gwv1.HTTPRouteFilterRequestRedirect && in.RequestRedirect != nil:
		r := in.RequestRedirect
		f.redirect = &config.HTTPRedirect{Scheme: value(r.Scheme, ""), Hostname: string(value(r.Hostname, "")),
			Port: uint16(value(r.Port, 0)), Path: pathChange(r.Path), Code: value(r.StatusCode, http.StatusFound)}
	case in.Type == gwv1.HTTPRouteFilterURLRewrite && in.URLRewrite != nil:
		f.rewrite = &config.HTTPURLRewrite{Hostname: string(value(in.URLRewrite.Hostname, "")), Path: pathChange(in.URLRewrite.Path)}
	case in.Type == gwv1.HTTPRouteFilterExtensionRef && in.ExtensionRef != nil:
		return verdict{string(gwv1.RouteReasonInvalidKind), fmt.Sprintf(
			"filter ExtensionRef to %s %q: Sluice has no filters of its own; remove it; its requests get status 500",
			in.ExtensionRef.Kind, in.ExtensionRef.Name)}, ""
	default:
		return verdict{}, fmt.Sprintf("filter %s is not supported; remove it", in.Type)
	}
	return verdict{}, ""
}

func headers(in *gwv1.HTTPHeaderFilter) *config.HTTPHeaders {
	out := &config.HTTPHeaders{}
	for _, h := range in.Set {
		out.Set = append(out.Set, header(h))
	}
	for _, h := range in.Add {
		out.Add = append(out.Add, header(h))
	}
	for _, h := range in.Remove {
		out.Remove = append(out.Remove, http.CanonicalHeaderKey(h))
	}
	return out
}

func header(h gwv1.HTTPHeader) config.HTTPHeader {
	return config.HTTPHeader{Name: http.CanonicalHeaderKey(string(h.Name)), Value: h.Value}
}

func pathChange(p *gwv1.HTTPPathModifier) *config.HTTPPathChange {
	switch {
	case p == nil:
		return nil
	case p.Type == gwv1.FullPathHTTPPathModifier:
		full := value(p.ReplaceFullPath, "")
		return &config.HTTPPathChange{Full: &full}
	}
	return &config.HTTPPathChange{Prefix: value(p.ReplacePrefixMatch, "")}
}
