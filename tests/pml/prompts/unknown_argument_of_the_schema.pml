<!-- unknown_argument_of_the_schema.pml:2:1: unknown argument 'days'; the schema has parameters: none -->
<prompt schema="trip" days="two">Go on.</prompt>
