# GET /healthz   (health)
package shop.GET.healthz

allowed := true
