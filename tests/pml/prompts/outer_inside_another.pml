<!-- outer_inside_another.pml:3:20: module 'budget' is out of place; expected its import at the top of the prompt -->
<prompt schema="trip">
  <plan days="two"><budget/></plan>
  Go on.
</prompt>
