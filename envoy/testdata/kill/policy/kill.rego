package envoy.authz

allow if input.attributes.request.http.path == "/allowed"
