package policy

import (
	"context"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gobwas/glob"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"gatehouse/policy/rego"
)

const (
	// maxPatterns bounds the compiled patterns that a snapshot caches. Policies may build patterns from requests.
	maxPatterns = 1000
	// smallKey is the size in bytes up to which any pattern or schema is cached; of larger ones only largeKeys are.
	smallKey  = 1 << 10
	largeKeys = 64

	defaultAnswers = 10 << 20 // bytes of cached http.send responses
)

// patterns caches compiled patterns and schemas. OPA's own cache counts entries, not bytes: a thousand patterns chosen by requests can be
// gigabytes. Cached values share no memory with the request that they came with.
type patterns struct {
	cache.InterQueryValueCache
	large atomic.Int64
}

func newPatterns(ctx context.Context) *patterns {
	limit := maxPatterns
	return &patterns{InterQueryValueCache: cache.NewInterQueryValueCache(ctx, &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &limit},
	})}
}

// fits reports whether a value with this key is cached.
func (p *patterns) fits(key ast.Value) bool {
	size := 0
	switch key := key.(type) {
	case ast.String:
		size = len(key)
	case ast.Number: // a hash
	default:
		size, _ = textSize(key, smallKey)
	}
	return size <= smallKey && !repeats1000(key) || p.large.Add(1) <= largeKeys
}

// repeats1000 reports whether a short expression may compile to a large program.
func repeats1000(key ast.Value) bool {
	s, ok := key.(ast.String)
	return ok && strings.Contains(string(s), "{") && strings.ContainsAny(string(s), "0123456789") && strings.Contains(string(s), "){")
}

// textSize adds up a value's text, up to a bound.
func textSize(v ast.Value, bound int) (size int, below bool) {
	size = 8
	add := func(t *ast.Term) bool {
		n, _ := textSize(t.Value, bound-size)
		size += n
		return size > bound
	}
	switch v := v.(type) {
	case ast.String:
		size += len(v)
	case *ast.Array:
		v.Until(add)
	case ast.Set:
		v.Until(add)
	case ast.Object:
		v.Until(func(k, x *ast.Term) bool { return add(k) || add(x) })
	}
	return size, size <= bound
}

func (p *patterns) Insert(key ast.Value, value any) int {
	if !p.fits(key) {
		return 0
	}
	key, value = remade(key, value)
	return p.InterQueryValueCache.Insert(key, value)
}

// remade compiles a pattern again from a copy of its text.
func remade(key ast.Value, value any) (ast.Value, any) {
	s, ok := key.(ast.String)
	if !ok {
		return key, value
	}
	key = ast.String(strings.Clone(string(s)))
	switch v := value.(type) {
	case *regexp.Regexp:
		if re, err := regexp.Compile(strings.Clone(v.String())); err == nil {
			return key, re
		}
	case *glob.Pattern:
		if g, err := glob.Compile(strings.Clone(v.String()), v.Separators()...); err == nil {
			return key, g
		}
	}
	return key, value
}

func (p *patterns) GetCache(name string) cache.InterQueryValueCacheBucket {
	bucket := p.InterQueryValueCache.GetCache(name)
	if bucket == nil {
		return nil
	}
	return patternBucket{bucket, p}
}

type patternBucket struct {
	cache.InterQueryValueCacheBucket
	of *patterns
}

func (b patternBucket) Insert(key ast.Value, value any) int {
	if !b.of.fits(key) {
		return 0
	}
	return b.InterQueryValueCacheBucket.Insert(key, value)
}

// answers caches http.send responses across requests, where the policy asks for it (cache, force_cache). OPA's own cache does not count the
// size of the cached requests.
type answers struct{ cache.InterQueryCache }

func newAnswers(limit int64) answers {
	if limit == 0 {
		limit = defaultAnswers
	}
	percent, never := int64(100), int64(0)
	return answers{cache.NewInterQueryCache(&cache.Config{InterQueryBuiltinCache: cache.InterQueryBuiltinCacheConfig{
		MaxSizeBytes: &limit, ForcedEvictionThresholdPercentage: &percent, StaleEntryEvictionPeriodSeconds: &never}})}
}

// answer is a response that counts the size of its request.
type answer struct {
	cache.InterQueryCacheValue
	request int64
}

func (a answer) SizeInBytes() int64 { return a.InterQueryCacheValue.SizeInBytes() + a.request }

func (a answers) Get(key ast.Value) (cache.InterQueryCacheValue, bool) {
	v, ok := a.InterQueryCache.Get(key)
	if kept, isAnswer := v.(answer); isAnswer {
		return kept.InterQueryCacheValue, ok
	}
	return v, ok
}

func (a answers) Insert(key ast.Value, v cache.InterQueryCacheValue) int {
	return a.InsertWithExpiry(key, v, time.Time{})
}

func (a answers) InsertWithExpiry(key ast.Value, v cache.InterQueryCacheValue, expires time.Time) int {
	size := int64(0)
	own, ok := rego.Copy(key, &size)
	if !ok {
		return 0
	}
	return a.InterQueryCache.InsertWithExpiry(own, answer{v, 3*size + 512}, expires)
}
