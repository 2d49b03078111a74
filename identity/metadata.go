package identity

import (
	"encoding/json"
	"math"
	"strconv"

	"gatehouse/identity/claims"
	"gatehouse/identity/credential"
	"gatehouse/identity/refusal"
	"gatehouse/identity/strictjson"
)

// jwtAuthnFilter is the name under which Envoy's jwt_authn filter leaves what it verified (payload_in_metadata).
const jwtAuthnFilter = "envoy.filters.http.jwt_authn"

var (
	errMetadataForm   = refusal.Bad("payload in metadata is not an object of plain JSON")
	errMetadataIssuer = refusal.Bad("issuer of the payload in metadata is not a string")
)

// withMetadata takes the end user from the claims that Envoy's jwt_authn filter verified, where the request has no credential of its own. id is
// the credential's identity. Next to a credential, the payload must have the same issuer and subject: it is then the same token. Anything else
// is two different credentials, and it is unknown which one the application uses.
//
// The payload has no signature any more, so it is as trustworthy as Envoy's configuration: the filter must be in front of
// ext_authz on every route. Issuer and audience are for that filter to check. exp, nbf and iat are checked here where they are
// present, and sub is required.
func (v *Verifier) withMetadata(metadata map[string]any, id Identity) (Identity, error) {
	filters, _ := metadata["filterMetadata"].(map[string]any)
	filter, _ := filters[jwtAuthnFilter].(map[string]any)
	payload, present := filter[v.others.metadata]
	if !present {
		return id, nil
	}
	told, err := v.fromPayload(payload)
	switch {
	case err != nil:
		return Identity{}, err
	case !id.Authenticated:
		return told, nil
	case id.Issuer == "" || id.Issuer != told.Issuer || id.Subject != told.Subject:
		return Identity{}, credential.ErrTwoCredentials
	}
	return id, nil
}

func (v *Verifier) fromPayload(payload any) (Identity, error) {
	object, ok := payload.(map[string]any)
	if !ok {
		return Identity{}, errMetadataForm
	}
	value, err := tokenJSON(object, 1)
	if err != nil {
		return Identity{}, err
	}
	verified := value.(map[string]any)
	paths, skew, issuer := v.others.paths, defaultSkew, ""
	if name, present := verified["iss"]; present {
		if issuer, ok = name.(string); !ok {
			return Identity{}, errMetadataIssuer
		}
		if iss := v.byName[issuer]; iss != nil {
			paths, skew = iss.Claims, iss.ClockSkew
		}
	}
	times, err := claims.Window(verified, skew, v.clock())
	if err != nil {
		return Identity{}, err
	}
	subject, err := paths.SubjectOf(verified)
	if err != nil {
		return Identity{}, err
	}
	id, err := paths.Map(subject, verified)
	if err != nil {
		return Identity{}, err
	}
	id.Type, id.Issuer, id.Expires = TypeJWT, issuer, times.Expires
	return id, nil
}

// tokenJSON copies plain JSON and makes of its numbers what they are in a token's claims. Envoy keeps every number as a double, so
// a whole number above 2^53 has lost digits before it comes here.
func tokenJSON(value any, depth int) (any, error) {
	if depth > strictjson.MaxDepth {
		return nil, errMetadataForm
	}
	switch value := value.(type) {
	case map[string]any:
		object := make(map[string]any, len(value))
		for name, member := range value {
			var err error
			if object[name], err = tokenJSON(member, depth+1); err != nil {
				return nil, err
			}
		}
		return object, nil
	case []any:
		array := make([]any, len(value))
		for i, element := range value {
			var err error
			if array[i], err = tokenJSON(element, depth+1); err != nil {
				return nil, err
			}
		}
		return array, nil
	case float64:
		return tokenNumber(value)
	case nil, bool, string, json.Number:
		return value, nil
	}
	return nil, errMetadataForm
}

// tokenNumber writes whole numbers without fraction and exponent, as issuers do.
func tokenNumber(f float64) (any, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil, errMetadataForm
	case f == math.Trunc(f) && math.Abs(f) < 1e21:
		return json.Number(strconv.FormatFloat(f+0, 'f', -1, 64)), nil // + 0: no -0
	}
	text, err := json.Marshal(f)
	return json.Number(text), err
}
