package scim

import "net/http"

const (
	urnProvider = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
	urnType     = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
	urnSchema   = "urn:ietf:params:scim:schemas:core:2.0:Schema"
)

// discover answers what the server can: RFC 7644, section 4.
func (s *Server) discover(r *request) (*response, error) {
	if r.method != http.MethodGet {
		return nil, fail(http.StatusMethodNotAllowed, "", "%s is not possible here", r.method)
	}
	if r.query.Has("filter") {
		return nil, fail(http.StatusForbidden, "", "this cannot be filtered")
	}
	var all []any
	switch r.path[0] {
	case "ServiceProviderConfig":
		if len(r.path) == 1 {
			return &response{status: http.StatusOK, body: r.provider()}, nil
		}
	case "ResourceTypes":
		for _, k := range kinds {
			all = append(all, r.resourceType(k))
		}
	case "Schemas":
		for _, one := range []*schema{userSchema, enterpriseSchema, groupSchema} {
			all = append(all, r.schema(one))
		}
	}
	if len(r.path) == 1 {
		return &response{status: http.StatusOK, body: map[string]any{"schemas": []any{urnList}, "totalResults": len(all), "startIndex": 1, "itemsPerPage": len(all), "Resources": all}}, nil
	}
	for _, one := range all {
		if object, ok := one.(map[string]any); ok && len(r.path) == 2 && object["id"] == r.path[1] {
			return &response{status: http.StatusOK, body: object}, nil
		}
	}
	return nil, fail(http.StatusNotFound, "", "there is no such address")
}

func (r *request) meta(typ, path string) map[string]any {
	return map[string]any{"resourceType": typ, "location": r.base + "/" + path}
}

func (r *request) provider() map[string]any {
	supported := func(is bool) map[string]any { return map[string]any{"supported": is} }
	return map[string]any{"schemas": []any{urnProvider}, "patch": supported(true), "changePassword": supported(false), "sort": supported(false), "etag": supported(true),
		"bulk":   map[string]any{"supported": true, "maxOperations": maxBulk, "maxPayloadSize": maxBody},
		"filter": map[string]any{"supported": true, "maxResults": maxPage},
		"authenticationSchemes": []any{map[string]any{"type": "oauthbearertoken", "name": "Bearer token", "description": "A service token of control with the scope scim:project/environment.",
			"specUri": "https://www.rfc-editor.org/rfc/rfc6750", "primary": true}},
		"meta": r.meta("ServiceProviderConfig", "ServiceProviderConfig")}
}

func (r *request) resourceType(k *kind) map[string]any {
	out := map[string]any{"schemas": []any{urnType}, "id": k.name, "name": k.name, "description": k.core.about, "endpoint": "/" + k.endpoint, "schema": k.core.urn, "meta": r.meta("ResourceType", "ResourceTypes/"+k.name)}
	var extensions []any
	for _, e := range k.extensions {
		extensions = append(extensions, map[string]any{"schema": e.urn, "required": false})
	}
	if extensions != nil {
		out["schemaExtensions"] = extensions
	}
	return out
}

func (r *request) schema(s *schema) map[string]any {
	return map[string]any{"schemas": []any{urnSchema}, "id": s.urn, "name": s.name, "description": s.about, "attributes": describeAll(s.attributes), "meta": r.meta("Schema", "Schemas/"+s.urn)}
}
