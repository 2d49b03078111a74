package completing

// arguments is what the arguments of a command are, by their place.
func arguments() map[string][]words {
	none := fixed()
	return map[string][]words{
		"check":           {methods, paths, none},
		"routes match":    {methods, pathsOrMethods, paths, none},
		"explain":         {decisions, none},
		"eval":            {references, none},
		"config explain":  {keys, none},
		"bundle tag":      {images, images, none},
		"bundle push":     {images, images, none},
		"bundle pull":     {images, none},
		"bundle save":     {images, none},
		"bundle inspect":  {nil, none},
		"bundle rm":       {images, images, images, images},
		"bundle login":    {none},
		"bundle logout":   {none},
		"routes list":     {nil, none},
		"directory get":   {nil, objects, none},
		"directory who":   {nil, relations, objects, none},
		"directory what":  {nil, subjects, relations, none},
		"directory graph": {nil, objects, relations, objects, none},
		"token why":       {nil, none},
	}
}

// flags is what flags can be: "COMMAND --NAME" before "--NAME".
func flags() map[string]words {
	return map[string]words{
		"--decision":           decisionPaths,
		"--route":              routeNames,
		"--app":                apps,
		"--reason":             reasons,
		"--method":             fixed("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"),
		"--subject":            callers,
		"--role":               roles,
		"--as":                 callers,
		"--sub":                callers,
		"--path":               none,
		"--since":              fixed("15m", "1h", "24h", "7d"),
		"--until":              fixed("15m", "1h", "24h", "7d"),
		"--key-id":             keyIDs,
		"--algorithm":          fixed("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"),
		"--log-level":          fixed("debug", "info", "warn", "error"),
		"--log-format":         fixed("json", "console"),
		"--severity":           fixed("note", "warning", "error"),
		"--rules":              fixed("per-route", "rbac"),
		"--sort":               fixed("requests", "denied", "latency", "route"),
		"bundle rollback --to": revisions,
		"--iss":                issuers,
		"--aud":                audiences,
		"--tag":                images,
		"k8s generate --for":   fixed("envoy", "istio", "envoy-gateway"),
		"k8s generate --mode":  fixed("service", "sidecar"),
		"k8s generate --app":   none,
	}
}

func methods(*question) []string {
	return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET"}
}

func none(*question) []string { return nil }
