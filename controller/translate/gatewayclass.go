// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// class is a GatewayClass: ours, or not.
type class struct {
	object   *gwv1.GatewayClass // nil for the default class without an object
	ours     bool
	accepted verdict
	params   *parameters
}

// gatewayAPI is the version of the Gateway API CRDs that Sluice is built for.
const gatewayAPI = "v1.6"

// supported are the features of the Gateway API that Sluice has
// (sigs.k8s.io/gateway-api/pkg/features), sorted.
var supported = []gwv1.FeatureName{
	"BackendTLSPolicy",
	"BackendTLSPolicySANValidation",
	"Gateway",
	"GatewayAddressEmpty",
	"GatewayBackendClientCertificate",
	"GatewayFrontendClientCertificateValidation",
	"GatewayFrontendClientCertificateValidationInsecureFallback",
	"GatewayHTTPListenerIsolation",
	"GatewayHTTPSListenerDetectMisdirectedRequests",
	"GatewayInfrastructure",
	"GatewayPort8080",
	"GatewayStaticAddresses",
	"HTTPRoute",
	"HTTPRoute303RedirectStatusCode",
	"HTTPRoute307RedirectStatusCode",
	"HTTPRoute308RedirectStatusCode",
	"HTTPRouteBackendProtocolH2C",
	"HTTPRouteBackendProtocolWebSocket",
	"HTTPRouteBackendRequestHeaderModification",
	"HTTPRouteBackendTimeout",
	"HTTPRouteDestinationPortMatching",
	"HTTPRouteHostRewrite",
	"HTTPRouteMethodMatching",
	"HTTPRouteNamedRouteRule",
	"HTTPRouteParentRefPort",
	"HTTPRoutePathRedirect",
	"HTTPRoutePathRewrite",
	"HTTPRoutePortRedirect",
	"HTTPRouteQueryParamMatching",
	"HTTPRouteRequestTimeout",
	"HTTPRouteResponseHeaderModification",
	"HTTPRouteSchemeRedirect",
	"ListenerSet",
	"ReferenceGrant",
	"TCPRoute",
	"TLSRoute",
	"TLSRouteModeMixed",
	"TLSRouteModeTerminate",
	"UDPRoute",
}

// needsServices is the feature that there is only where Services can be made.
const needsServices = "GatewayInfrastructure"

func (t *translator) readClasses() {
	if t.DefaultClass != "" {
		t.classes[t.DefaultClass] = &class{ours: true}
	}
	for _, c := range t.in.GatewayClasses {
		k := &class{object: c, ours: string(c.Spec.ControllerName) == t.ControllerName}
		if k.ours {
			k.params, k.accepted = t.readParameters(keyOf("GatewayClass", c), c.Spec.ParametersRef)
		}
		t.classes[c.Name] = k
	}
}

func (t *translator) classStatuses(state snapshotState) []Status {
	var out []Status
	for _, k := range t.classes {
		if !k.ours || k.object == nil {
			continue
		}
		c := k.object
		had := c.Status.Conditions
		if s := t.stored[Key{"GatewayClass", "", c.Name}]; s != nil && s.GatewayClass != nil {
			had = s.GatewayClass.Conditions
		}
		version := verdict{}
		if !t.supportsBundle() {
			version = verdict{string(gwv1.GatewayClassReasonUnsupportedVersion), fmt.Sprintf(
				"the Gateway API CRDs are version %s and Sluice is built for %s; objects are read as far as they agree; install CRDs of %s",
				t.BundleVersion, gatewayAPI, gatewayAPI)}
		}
		status := &gwv1.GatewayClassStatus{}
		status.Conditions = t.merge(had, c.Generation, []string{"Accepted", "SupportedVersion"}, []condition{
			k.accepted.is("Accepted", "Accepted", "served by "+t.ControllerName),
			version.is("SupportedVersion", "SupportedVersion", "Gateway API "+gatewayAPI),
		})
		for _, f := range supported {
			if f == needsServices && state.NoServices {
				continue
			}
			status.SupportedFeatures = append(status.SupportedFeatures, gwv1.SupportedFeature{Name: f})
		}
		out = append(out, Status{Kind: "GatewayClass", Name: c.Name, Generation: c.Generation, GatewayClass: status})
	}
	return out
}

func (t *translator) supportsBundle() bool {
	return t.BundleVersion == "" || strings.HasPrefix(t.BundleVersion, gatewayAPI+".")
}
