package envoy.authz

allow := true
