<!-- not_a_prompt.pml:2:1: <schema>; expected <prompt> -->
<schema name="trip">Go on.</schema>
