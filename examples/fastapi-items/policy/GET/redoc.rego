# GET /redoc   (redoc_html)
package shop.GET.redoc

import data.roles

default allowed := false

allowed if roles.has("developer")
