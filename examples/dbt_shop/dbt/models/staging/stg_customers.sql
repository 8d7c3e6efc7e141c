select id as customer_id, name, country
from {{ source("raw_shop", "customers") }}
