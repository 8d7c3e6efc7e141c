select
    customers.country,
    count(*) as orders,
    sum(orders.amount) as revenue
from {{ ref("stg_orders") }} as orders
join {{ ref("stg_customers") }} as customers using (customer_id)
group by customers.country
