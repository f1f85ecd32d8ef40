<!-- max_tokens_is_no_number.pml:2:1: max_tokens='-1'; expected a whole number from 1 to 999999999 -->
<prompt schema="trip" max_tokens="-1">Go on.</prompt>
