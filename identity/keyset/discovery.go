package keyset

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"gatehouse/identity/strictjson"
	"gatehouse/upstream"
)

// MetadataURL is where an issuer's metadata is (OpenID Connect Discovery 1.0 section 4): below the issuer, with the slash at its
// end left out.
func MetadataURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// oauthMetadataURL is where an OAuth server that is no OpenID provider has it (RFC 8414 section 3): the well-known part goes
// between the host and the issuer's path.
func oauthMetadataURL(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return issuer // not reached: New parsed it
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	return u.Scheme + "://" + u.Host + "/.well-known/oauth-authorization-server" + path
}

// CheckIssuerURL holds what both standards ask of an issuer whose metadata can be found.
func CheckIssuerURL(issuer string) error {
	if err := CheckURL(issuer); err != nil {
		return err
	}
	if strings.ContainsAny(issuer, "?#") {
		return errors.New("must have no query and no fragment")
	}
	return nil
}

// Discover asks an issuer's own host where its keys are. The metadata is read anew each time, so that keys that move are
// followed. A server without OpenID metadata (404) is asked for its OAuth metadata; any other failure is final: an
// outage of the first must not make the second authoritative.
func (c Client) Discover(ctx context.Context, issuer string) (string, error) {
	where := MetadataURL(issuer)
	raw, status, err := c.get(ctx, where, "application/json")
	if status == http.StatusNotFound {
		where = oauthMetadataURL(issuer)
		var second error
		if raw, _, second = c.get(ctx, where, "application/json"); second != nil {
			return "", fmt.Errorf("%w; %w", err, second)
		}
		err = nil
	}
	if err != nil {
		return "", err
	}
	at, err := readMetadata(issuer, raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", where, err)
	}
	return at, nil
}

// readMetadata takes jwks_uri from a document that names the same issuer (OpenID Connect Discovery 1.0 section 4.3, RFC 8414
// section 3.3). Else one tenant of a host could stand in for another.
func readMetadata(issuer string, raw []byte) (string, error) {
	object, _, err := strictjson.Object(raw)
	if err != nil {
		return "", err
	}
	named, ok := object["issuer"].(string)
	switch {
	case !ok:
		return "", errors.New(`"issuer" is missing or not a string`)
	case named != issuer:
		return "", fmt.Errorf("names the issuer %.200q; %q is configured, and they must be equal to the last slash", named, issuer)
	}
	at, ok := object["jwks_uri"].(string)
	if !ok {
		return "", errors.New(`"jwks_uri" is missing or not a string`)
	}
	if len(at) > maxURL {
		return "", fmt.Errorf("jwks_uri is longer than %d bytes", maxURL)
	}
	if err := CheckURL(at); err != nil {
		return "", fmt.Errorf("jwks_uri: %w", err)
	}
	if onLoopback(at) && !onLoopback(issuer) {
		return "", fmt.Errorf("jwks_uri: %q is on this machine and the issuer is not", at)
	}
	return at, nil
}

func onLoopback(text string) bool {
	u, err := url.Parse(text)
	return err == nil && upstream.IsLoopback(u.Hostname())
}
